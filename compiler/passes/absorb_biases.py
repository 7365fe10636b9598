"""Move a convolution's bias into the tables of the qindex conditioning behind it:

    (W x + b) s[q] + t[q]   =   (W x) s[q] + (b s[q] + t[q])

The table costs nothing more; the bias would cost CUDA a pass over the whole row.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compiler.passes.fold_batch_norm import convolution


@dataclass(frozen=True)
class _Site:
    """Where a convolution's output is scaled and shifted: names of the two tables, the shift's lookup, and the sum."""

    scale: str
    shift: str
    shift_node: fx.Node
    shifted: fx.Node


@torch.no_grad()
def absorb_biases(traced: fx.GraphModule) -> int:
    """Absorb, in place, every bias that always meets the same pair of tables; returns how many.

    Args:
        traced: from compiler.passes.share_branches.trace.
    """
    sites: dict[str, list[_Site | None]] = defaultdict(list)
    for node in traced.graph.nodes:
        if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), nn.Conv2d):
            sites[str(node.target)].append(_site(node))
    count = 0
    for target, found in sites.items():
        conv, first = traced.get_submodule(target), found[0]
        assert isinstance(conv, nn.Conv2d)
        pairs = {(s.scale, s.shift) if s else None for s in found}
        if conv.bias is None or first is None or len(pairs) > 1:
            continue
        # Equal tables are one lookup (compiler/passes/share_branches.py), so another layer may read this one too.
        readers = {user for lookup in first.shift_node.users for user in lookup.users}
        if readers != {site.shifted for site in found if site}:
            continue
        scale, shift = table_of(traced, first.scale), table_of(traced, first.shift)
        name = f"absorbed{count}"
        traced.register_buffer(name, (shift.double() + conv.bias.double() * scale.double()).to(shift.dtype))
        traced.add_submodule(target, convolution(conv, conv.weight, None))
        with traced.graph.inserting_before(first.shift_node):
            table = traced.graph.get_attr(name)
        table.meta["shape"] = shift.shape
        first.shift_node.replace_input_with(first.shift_node.all_input_nodes[1], table)
        count += 1
    traced.recompile()
    return count


def _site(node: fx.Node) -> _Site | None:
    """The one scale and shift that a node's value goes through, or None."""
    if len(node.users) != 1 or (scaled := next(iter(node.users))).target is not operator.mul or len(scaled.users) != 1:
        return None
    shifted = next(iter(scaled.users))
    if shifted.target is not operator.add:
        return None
    scale, shift = lookup_beside(scaled, node), lookup_beside(shifted, scaled)
    if scale is None or shift is None or any(user.target is not operator.getitem for user in shift.users):
        return None
    return _Site(str(scale.all_input_nodes[1].target), str(shift.all_input_nodes[1].target), shift, shifted)


def lookup_beside(node: fx.Node, value: fx.Node) -> fx.Node | None:
    """The table lookup that is the node's other operand."""
    others = [n for n in node.all_input_nodes if n is not value]
    if len(others) != 1 or others[0].target is not operator.getitem:
        return None
    lookup = others[0].all_input_nodes[0]
    return lookup if lookup.target is F.embedding and lookup.all_input_nodes[1].op == "get_attr" else None


def table_of(traced: fx.GraphModule, target: str) -> Tensor:
    owner, _, name = target.rpartition(".")
    table = getattr(traced.get_submodule(owner), name)
    assert isinstance(table, Tensor)
    return table
