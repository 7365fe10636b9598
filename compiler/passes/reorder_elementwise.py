"""Do elementwise work where there are fewer values to do it on. Exact: the operations commute.

relu ─► max pool              becomes   max pool ─► relu
x s + t ─► max pool           becomes   max pool ─► x s + t       where no scale s is negative
(x g) s, x a map, g, s [N, C] becomes   x (g s)
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.nn import functional as F

from compiler.passes.absorb_biases import lookup_beside, table_of
from compiler.passes.share_branches import shape_of


@torch.no_grad()
def reorder(traced: fx.GraphModule) -> int:
    """Reorder, in place; returns how many operations moved.

    Args:
        traced: from compiler.passes.share_branches.trace.
    """
    count = 0
    for node in list(traced.graph.nodes):
        if node.target is F.max_pool2d:
            count += _pool_first(traced, node)
        elif node.target is operator.mul:
            count += _join_gates(traced, node)
    traced.graph.lint()
    traced.recompile()
    return count


def _pool_first(traced: fx.GraphModule, pool: fx.Node) -> int:
    """Move a max pool in front of what it reads: a ReLU, a scale and shift, or both."""
    chain: list[fx.Node] = []
    source = pool.all_input_nodes[0]
    if source.target is F.relu and len(source.users) == 1:
        chain, source = [source], source.all_input_nodes[0]
    if (scaled := _scaled(traced, source)) is not None:
        chain, source = [scaled, source, *chain], scaled.all_input_nodes[0]
    if not chain:
        return 0
    pool.replace_all_uses_with(chain[-1])
    pool.replace_input_with(chain[-1], source)
    chain[0].replace_input_with(source, pool)
    chain[0].prepend(pool)
    for node in chain:
        node.meta["shape"] = shape_of(pool)
    return len(chain)


def _scaled(traced: fx.GraphModule, total: fx.Node) -> fx.Node | None:
    """Of a sum x s[q] + t[q] that one node reads: x s[q], if no s is negative; None for anything else."""
    if total.target is not operator.add or len(total.users) > 1:
        return None
    scaled = total.args[0]
    if not isinstance(scaled, fx.Node) or scaled.target is not operator.mul or len(scaled.users) > 1:
        return None
    source = scaled.args[0]
    if not isinstance(source, fx.Node) or lookup_beside(total, scaled) is None:
        return None
    scale = lookup_beside(scaled, source)
    return None if scale is None or table_of(traced, str(scale.all_input_nodes[1].target)).min() < 0 else scaled


def _join_gates(traced: fx.GraphModule, node: fx.Node) -> int:
    """Turn (x g) s into x (g s) where x is a map and g and s are rows, one value for each of its channels."""
    inner, outer = node.args
    if not isinstance(inner, fx.Node) or not isinstance(outer, fx.Node) or inner.target is not operator.mul:
        return 0
    x, gate = inner.args
    if len(inner.users) > 1 or not isinstance(x, fx.Node) or not isinstance(gate, fx.Node):
        return 0
    rows, size = (shape_of(gate), shape_of(outer)), shape_of(x)
    if rows[0] != rows[1] or rows[0] == size or rows[0] != (*size[:2], 1, 1):
        return 0
    with traced.graph.inserting_before(node):
        both = traced.graph.call_function(operator.mul, (gate, outer))
    both.meta["shape"] = rows[0]
    node.args = (x, both)
    traced.graph.erase_node(inner)
    return 1
