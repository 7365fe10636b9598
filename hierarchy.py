"""What a model answers of the nodes of one size: their partition types, and the hierarchy of heads over them.

Heads form a tree: each divides one class of another, down to classes that are partition types.

    stage1: NONE | PARTITIONED ─► macro: SPLIT | RECT | AB | FOUR
                                                  │     │    └─► four: HORZ_4 | VERT_4
                                                  │     └─► ab: HORZ_A | HORZ_B | VERT_A | VERT_B
                                                  └─► rect: HORZ | VERT

P(HORZ) = P(PARTITIONED) P(RECT) P(HORZ | RECT): `Level.factors` is that rule as a table, which numpy, torch and C read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from partition import BlockSize, Partition, legal_partitions

NO_SAY = -1
"""Class of a partition type that a head does not tell apart."""


@dataclass(frozen=True)
class Head:
    """One classifier of the hierarchy.

    Attributes:
        name: such as "macro".
        classes: in the order of its logits; a class is a partition type by name, or what another head divides.
        divides: name of the head and the class of it that this one divides; None for the first.
    """

    name: str
    classes: tuple[str, ...]
    divides: tuple[str, str] | None = None


PARTITION_HIERARCHY = (
    Head("stage1", ("NONE", "PARTITIONED")),
    Head("macro", ("SPLIT", "RECT", "AB", "FOUR"), ("stage1", "PARTITIONED")),
    Head("rect", ("HORZ", "VERT"), ("macro", "RECT")),
    Head("ab", ("HORZ_A", "HORZ_B", "VERT_A", "VERT_B"), ("macro", "AB")),
    Head("four", ("HORZ_4", "VERT_4"), ("macro", "FOUR")),
)
"""The hierarchy over all ten types."""


def hierarchy_of(types: Sequence[Partition]) -> tuple[Head, ...]:
    """PARTITION_HIERARCHY without the classes that no type of `types` falls into; a head left with one class goes,
    and the class it divides becomes that type itself, or what the next head divides.

    Args:
        types: legal at a level.
    """
    kept = {p.name for p in types}
    heads: list[Head] = []
    becomes: dict[str, str] = {}
    for head in reversed(PARTITION_HIERARCHY):  # children come after their parents
        names = tuple(becomes.get(c, c) for c in head.classes)
        classes = tuple(c for c in names if c in kept or any(h.divides == (head.name, c) for h in heads))
        if kept.issuperset(classes):  # all of them types: in their order
            classes = tuple(sorted(classes, key=lambda c: Partition[c]))
        if len(classes) > 1 or head.divides is None:
            heads.insert(0, Head(head.name, classes, head.divides))
        elif divided := [h for h in heads if h.divides == (head.name, *classes)]:
            heads[heads.index(divided[0])] = replace(divided[0], divides=head.divides)
        elif classes:
            becomes[head.divides[1]] = classes[0]
    return tuple(heads)


@dataclass(frozen=True)
class Level:
    """Nodes of one size, and what a model says of each.

    Attributes:
        node_size: side of a node in luma samples, 8 to 64.
        types: partition types that such a node may have, by id ascending; the columns of `probability`.
        heads: the hierarchy; the logits of a node are those of its heads, one after another.

    Raises:
        ValueError: if heads and types do not fit.
    """

    node_size: int
    types: tuple[Partition, ...]
    heads: tuple[Head, ...]

    def __post_init__(self) -> None:
        if self.node_size not in (8, 16, 32, 64):
            raise ValueError(f"nodes are 8, 16, 32 or 64 samples wide, not {self.node_size}")
        if not set(self.types) <= set(legal_partitions(BlockSize[f"BLOCK_{self.node_size}X{self.node_size}"])):
            raise ValueError(f"a node of {self.node_size} samples cannot have every type of {self._names()}")
        if Partition.NONE not in self.types or list(self.types) != sorted(set(self.types)):
            raise ValueError(f"types are ids in ascending order, NONE among them, not {self._names()}")
        if not self.heads or self.heads[0].divides is not None:
            raise ValueError("the first head divides all nodes")
        self._check_heads()

    def _names(self) -> str:
        return ", ".join(p.name for p in self.types)

    def _check_heads(self) -> None:
        known: dict[str, Head] = {}
        open_classes: list[tuple[str, str]] = []
        for head in self.heads:
            if head.name in known or len(set(head.classes)) < max(2, len(head.classes)):
                raise ValueError(f"head '{head.name}' stands twice, or has fewer than two classes, or one twice")
            if head.divides is not None:
                if head.divides not in open_classes:
                    raise ValueError(f"head '{head.name}' divides {head.divides}, which no head before it leaves open")
                open_classes.remove(head.divides)
            known[head.name] = head
            open_classes += [(head.name, c) for c in head.classes]
        if [c for _, c in sorted(open_classes, key=lambda each: each[1])] != sorted(p.name for p in self.types):
            raise ValueError("the classes that no head divides are not the level's types")
        if sum(head.divides is None for head in self.heads) != 1:
            raise ValueError("one head alone divides all nodes")
        divided = {head.divides[0] for head in self.heads if head.divides}
        for head in self.heads:
            ids = [self.types.index(Partition[c]) for c in head.classes] if head.name not in divided else []
            if ids and ids != list(range(ids[0], ids[0] + len(ids))):
                raise ValueError(f"the types that head '{head.name}' tells apart do not follow one another")

    @cached_property
    def logits(self) -> int:
        """How many a node has."""
        return sum(len(head.classes) for head in self.heads)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each head's logits lie among a node's."""
        slices, start = {}, 0
        for head in self.heads:
            slices[head.name] = slice(start, start + len(head.classes))
            start += len(head.classes)
        return slices

    def head(self, name: str) -> Head:
        """The head of that name.

        Raises:
            KeyError: if there is none.
        """
        return {h.name: h for h in self.heads}[name]

    def members(self, name: str, of: str) -> tuple[Partition, ...]:
        """The types that a class of a head stands for, by id ascending.

        Args:
            name: of the head.
            of: the class.
        """
        child = next((h for h in self.heads if h.divides == (name, of)), None)
        if child is None:
            return (Partition[of],)
        return tuple(sorted(p for c in child.classes for p in self.members(child.name, c)))

    @cached_property
    def targets(self) -> dict[str, NDArray[np.int64]]:
        """For each head the class of every partition id, int64 [10]; NO_SAY where it has none."""
        tables = {}
        for head in self.heads:
            table = np.full(len(Partition), NO_SAY, np.int64)
            for number, of in enumerate(head.classes):
                table[list(self.members(head.name, of))] = number
            tables[head.name] = table
        return tables

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """Column of `probability` of every partition id, int64 [10]; NO_SAY for what is not among the types."""
        table = np.full(len(Partition), NO_SAY, np.int64)
        table[list(self.types)] = np.arange(len(self.types))
        return table

    @cached_property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """The chain rule: for each of the types, the logits whose softmax, each within its head, it is the product of.

        Products are taken from the left, the first head's factor first.
        """
        return tuple(self._path(p) for p in self.types)

    def _path(self, partition: Partition) -> tuple[int, ...]:
        path = []
        for head in self.heads:
            number = int(self.targets[head.name][partition])
            if number != NO_SAY:
                path.append(self.slices[head.name].start + number)
        return tuple(path)


def level_of(node_size: int) -> Level:
    """The level of all legal types at a node size, with the hierarchy over them."""
    types = legal_partitions(BlockSize[f"BLOCK_{node_size}X{node_size}"])
    return Level(node_size, types, hierarchy_of(types))


def chain_rule(logits: NDArray[np.floating], level: Level) -> NDArray[np.float64]:
    """Probability of each type of a level from the logits of its heads, computed in float64.

    Args:
        logits: float [..., level.logits].
        level: whose nodes they are.

    Returns:
        float64 [..., types], rows sum to 1. The torch twin is train.model.chain_rule.
    """
    within = np.empty(logits.shape, np.float64)
    for part in level.slices.values():
        z = logits[..., part].astype(np.float64)
        e = np.exp(z - z.max(-1, keepdims=True))
        within[..., part] = e / e.sum(-1, keepdims=True)
    probability = np.empty((*logits.shape[:-1], len(level.types)))
    for column, (first, *rest) in enumerate(level.factors):
        product = within[..., first]
        for factor in rest:
            product = product * within[..., factor]
        probability[..., column] = product
    return probability
