"""In which order each map of a traced model lies in its row, so that nothing ever has to be transposed.

Values that meet in an elementwise operation must agree; an operation that stays on maps needs "channel" order, which is
a map's own. All others take "position", in which a 2x2/2 convolution is one small product for every patch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from export.share import shape_of


class Orders:
    """The order of every map, found by joining those that must agree."""

    def __init__(self, traced: fx.GraphModule, kind: Callable[[fx.Node], str]) -> None:
        """Args:
        traced: from export.share.trace.
        kind: of a node: "product" reads and writes any order, "elementwise" keeps one, "map" needs "channel".
        """
        self._parent: dict[fx.Node, fx.Node] = {}
        forced = []
        for node in traced.graph.nodes:
            maps = [n for n in [node, *node.all_input_nodes] if _is_map(n)]
            role = "map" if node.op == "placeholder" else kind(node)
            if role == "map":
                forced += maps
            elif role == "elementwise":
                for other in maps[1:]:
                    self._join(maps[0], other)
        self._channel = {self._find(n) for n in forced}

    def of(self, node: fx.Node) -> str:
        """One of export.dense.ORDERS; where there is but one position the two are the same, and this is "position"."""
        return "channel" if _is_map(node) and self._find(node) in self._channel else "position"

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
