"""Reading a lowered graph: its matrix products, and the constants it holds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, fx


class Product(NamedTuple):
    """row @ matrix + bias: the nodes of a product with a constant matrix [in, out] and bias [out] or None."""

    row: fx.Node
    matrix: fx.Node
    bias: fx.Node | None


def product_of(node: fx.Node) -> Product | None:
    """What the node multiplies, or None if it is no product with a constant matrix."""
    if node.target is torch.matmul:
        bias, row, matrix = None, *node.args
    elif node.target is torch.addmm:
        bias, row, matrix = node.args
    else:
        return None
    if not isinstance(matrix, fx.Node) or matrix.op != "get_attr":
        return None
    assert isinstance(row, fx.Node) and (bias is None or isinstance(bias, fx.Node))
    return Product(row, matrix, bias)


def value_of(lowered: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor that a get_attr node names."""
    value = getattr(lowered, str(node.target))
    assert isinstance(value, Tensor)
    return value


def drop_unused(lowered: fx.GraphModule) -> None:
    """Drop what nothing reads: nodes, submodules and constants."""
    lowered.graph.eliminate_dead_code()
    lowered.delete_all_unused_submodules()
    used = {str(n.target) for n in lowered.graph.nodes if n.op == "get_attr"}
    for name in [n for n, _ in lowered.named_buffers(recurse=False) if n not in used]:
        delattr(lowered, name)
    lowered.recompile()
