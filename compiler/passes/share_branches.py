"""Compute once what two branches of a model compute alike.

Two nodes are one if they are the same operation on the same inputs with the same weights; weights are compared by the
SHA-256 of their bytes, so that two copies of a trunk are shared when they are copies, and one changed bit keeps them
apart. Without adapters, for example, all five heads turn out to read the same features.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import fx, nn

from compiler.passes.prune_taps import ChannelScale


def trace(model: nn.Module, example: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """The model as a graph of single operations in which every node knows its shape and nothing is computed twice.

    Args:
        model: in eval mode, without control flow that depends on data.
        example: arguments of its forward.

    Returns:
        A graph module; each node's shape, batch axis first, is `shape_of(node)`.
    """
    graph = _Tracer().trace(model)
    traced = fx.GraphModule(model, graph)
    merge_equal_nodes(traced)
    with torch.no_grad():
        _ShapeRecorder(traced).run(*example)
    return traced


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's value for the example that `trace` was given."""
    return tuple(node.meta["shape"])


class _Tracer(fx.Tracer):
    """Sees through every module but PyTorch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.Linear | ChannelScale)


class _ShapeRecorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            n.meta["shape"] = value.shape
        return value


def merge_equal_nodes(traced: fx.GraphModule) -> int:
    """Redirect every node that computes what an earlier one computes to that one; returns how many were dropped."""
    seen: dict[Any, fx.Node] = {}
    merged = 0
    for node in list(traced.graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        key = (node.op, _identity(traced, node), fx.node.map_arg(_frozen(node.args), lambda n: n), _frozen(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            traced.graph.erase_node(node)
            merged += 1
        else:
            seen[key] = node
    traced.recompile()
    return merged


def _frozen(value: Any) -> Any:
    """A hashable stand-in for a node's arguments, in which nodes stay themselves."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, dict):
        return tuple(sorted((k, _frozen(v)) for k, v in value.items()))
    if isinstance(value, slice):
        return ("slice", _frozen(value.start), _frozen(value.stop), _frozen(value.step))
    return value


def _identity(traced: fx.GraphModule, node: fx.Node) -> Any:
    """What a node applies: for modules and constants, their kind and the hash of their weights."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return repr(module), weights_sha256(dict(module.state_dict()))
    if node.op == "get_attr":
        value: Any = traced
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return weights_sha256({"": value})
    return node.target


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
