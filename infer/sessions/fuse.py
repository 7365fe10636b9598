"""Gather a compiled graph's products with what follows them into single operations (infer/sessions/cublaslt.py):

    relu(x W + b + residual)        becomes        product(x, W^T, b, residual, relu)

Columns are filled up to a multiple of 8, since tensor cores read rows of whole 16 bytes.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

import infer.sessions.cublaslt  # noqa: F401  (registers the operation)

ALIGNMENT = 8


class _Tail(NamedTuple):
    """What follows a product: the last node gathered, the residual, whether there is a ReLU, a reshape before it."""

    end: fx.Node
    residual: fx.Node | None
    relu: bool
    reshape: fx.Node | None


@torch.no_grad()
def fuse_products(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> int:
    """Rewrite, in place, every product with a constant matrix; returns how many.

    Args:
        graph: over rows, as compiler.passes.lower_to_products makes it.
        example: arguments of its forward, of a batch above 1.
    """
    ShapeProp(graph).propagate(*example)
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is torch.matmul:
            x, matrix = node.args
            bias = None
        elif node.target is torch.addmm:
            bias, x, matrix = node.args
        else:
            continue
        if not isinstance(matrix, fx.Node) or matrix.op != "get_attr":
            continue
        tail = _tail(node)
        weight = _value(graph, matrix).T
        columns = len(weight)
        with graph.graph.inserting_before(tail.end):
            arguments = (
                x,
                _constant(graph, f"weight{count}", _filled(weight)),
                None if bias is None else _constant(graph, f"bias{count}", _filled(_value(graph, bias))),
                tail.residual,
                tail.relu,
            )
            fused = graph.graph.call_function(torch.ops.av1_partition.product.default, arguments)
            if columns % ALIGNMENT:
                fused = graph.graph.call_function(operator.getitem, (fused, (slice(None), slice(0, columns))))
            if tail.reshape is not None:
                fused = graph.graph.call_function(torch.reshape, (fused, tail.reshape.args[1]))
        fused.meta = dict(tail.end.meta)
        tail.end.replace_all_uses_with(fused)
        count += 1
    graph.graph.eliminate_dead_code()
    used = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
    for name in [n for n, _ in graph.named_buffers(recurse=False) if n not in used]:
        delattr(graph, name)
    graph.graph.lint()
    graph.recompile()
    return count


def _tail(node: fx.Node) -> _Tail:
    end: fx.Node = node
    residual: fx.Node | None = None
    if (user := _only_user(end)) is not None and user.target is operator.add:
        others = [a for a in user.args if a is not end and isinstance(a, fx.Node)]
        if len(others) == 1 and _shape(others[0]) == _shape(node) and _shape(node)[1] % ALIGNMENT == 0:
            end, residual = user, others[0]
    user, reshape = _only_user(end), None
    if user is not None and user.target is torch.reshape:
        user, reshape = _only_user(user), user
    if user is None or user.target is not F.relu:
        return _Tail(end, residual, False, None)
    return _Tail(user, residual, True, reshape)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: fx.Node) -> tuple[int, ...]:
    """For the example; only a residual of exactly the product's shape can be added by the kernel."""
    return tuple(node.meta["tensor_meta"].shape)


def _filled(value: Tensor) -> Tensor:
    """Rows of zeros added until their number divides by ALIGNMENT."""
    missing = -len(value) % ALIGNMENT
    return torch.cat([value, value.new_zeros(missing, *value.shape[1:])]).contiguous()


def _constant(graph: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    graph.register_buffer(name, value)
    return graph.graph.get_attr(name)


def _value(graph: fx.GraphModule, node: object) -> Tensor:
    assert isinstance(node, fx.Node)
    value = getattr(graph, str(node.target))
    assert isinstance(value, Tensor)
    return value
