"""In which order each map of a traced model lies in its row, so that nothing ever has to be transposed.

Values that meet in an elementwise operation must agree; an operation that stays on maps needs "channel" order, which is
a map's own; a 2x2/2 convolution wants "position", in which it is one small product for every patch. All others take
what the runtime is fast at.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from compiler.passes.share_branches import shape_of


class Orders:
    """The order of every map, found by joining those that must agree."""

    def __init__(self, traced: fx.GraphModule, kind: Callable[[fx.Node], str], default: str) -> None:
        """Args:
        traced: from compiler.passes.share_branches.trace.
        kind: of a node: "product" reads and writes any order, "patches" wants "position" on both sides,
            "elementwise" keeps one, "map" needs "channel".
        default: where nothing is wanted.
        """
        self._parent: dict[fx.Node, fx.Node] = {}
        forced, wanted = [], []
        for node in traced.graph.nodes:
            maps = [n for n in [node, *node.all_input_nodes] if _is_map(n)]
            role = "map" if node.op == "placeholder" else kind(node)
            if role == "map":
                forced += maps
            elif role == "patches":
                wanted += maps
            elif role == "elementwise":
                for other in maps[1:]:
                    self._join(maps[0], other)
        self._order = dict.fromkeys(map(self._find, wanted), "position") | dict.fromkeys(
            map(self._find, forced), "channel"
        )
        self._default = default

    def of(self, node: fx.Node) -> str:
        """One of dense_convolution.ORDERS; where there is but one position the two are the same: "position"."""
        return self._order.get(self._find(node), self._default) if _is_map(node) else "position"

    def _find(self, node: fx.Node) -> fx.Node:
        while (parent := self._parent.get(node, node)) is not node:
            node = parent
        return node

    def _join(self, a: fx.Node, b: fx.Node) -> None:
        self._parent[self._find(a)] = self._find(b)


def _is_map(node: fx.Node) -> bool:
    """Whether the node's value is a map of more than one position."""
    shape = shape_of(node) if "shape" in node.meta else ()
    return len(shape) == 4 and shape[2] * shape[3] > 1
