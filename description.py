"""What a model reads and answers, as one value: a task.

    Task                 the superblock's way              the block's way
    ├─ InputForm         unit 64, border 0                 unit 16, border 0 or 8
    └─ levels            64, 32, 16, 8                     16
       └─ Level          node size, legal types,           16, ten types,
          └─ heads       the hierarchy over them           five heads, 14 logits

A task is written to run.json, the manifest, each ONNX file's metadata and each blob, and read from there by whoever
opens them; no other module knows how many types, heads, logits or samples there are. This one knows no torch.

Heads form a tree: each divides one class of another, down to classes that are partition types.

    stage1: NONE | PARTITIONED ─► macro: SPLIT | RECT | AB | FOUR
                                                  │     │    └─► four: HORZ_4 | VERT_4
                                                  │     └─► ab: HORZ_A | HORZ_B | VERT_A | VERT_B
                                                  └─► rect: HORZ | VERT

P(HORZ) = P(PARTITIONED) P(RECT) P(HORZ | RECT): `Level.factors` is that rule as a table, which numpy, torch and C read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from partition import BlockSize, Partition, legal_partitions

Array = TypeVar("Array", bound=Any)
"""A numpy array or a torch tensor."""

OUTPUT_KINDS = ("logits", "probability", "partition")
LARGEST_UNIT = 64
FRAME_1080P, FRAME_4K = (1920, 1080), (3840, 2160)
"""Width and height of the frames that batches are made for, in luma samples."""
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


@dataclass(frozen=True)
class InputForm:
    """What a model reads at once: the square of luma samples of one unit, and a border around it.

    Attributes:
        unit: side of what is predicted at once, in samples: 16, 32 or 64.
        border: samples around it that are read too.
        channels: of the luma as a trunk sees it (train.model.luma_channels).

    Raises:
        ValueError: for what no model can read.
    """

    unit: int
    border: int = 0
    channels: int = 1

    def __post_init__(self) -> None:
        if self.unit not in (16, 32, LARGEST_UNIT) or not 0 <= self.border <= self.unit or self.channels not in (1, 2):
            raise ValueError(f"no model reads units of {self.unit} with a border of {self.border}")

    @property
    def side(self) -> int:
        """Of the arrays that a model reads, in samples."""
        return self.unit + 2 * self.border

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of units of a frame, those that straddle its edge included."""
        return -(-height // self.unit), -(-width // self.unit)

    def blocks_in(self, frame: tuple[int, int]) -> int:
        """How many blocks a frame is cut into, of (width, height)."""
        return math.prod(self.grid(*frame))


@dataclass(frozen=True)
class Task:
    """One kind of model.

    A block is what a model reads at once, whatever its unit: 16x16 samples, a superblock of 64x64, with their border.
    Every array of N blocks has the nodes of a block in one order: levels from the largest nodes down, within each
    in raster order. So `logits`, float32 [N, task.logits], and `probability`, float32 [N, task.probabilities], hold
    level after level, node after node; labels and likeliest types are uint8 [N, task.nodes].

    Attributes:
        name: such as "blocks".
        input: what it reads.
        levels: what it answers, from the largest nodes down.

    Raises:
        ValueError: if the levels do not fit the unit or each other.
    """

    name: str
    input: InputForm
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        sizes = [level.node_size for level in self.levels]
        if not sizes or sizes != sorted(set(sizes), reverse=True) or sizes[0] > self.input.unit:
            raise ValueError(f"levels go from the largest nodes down, and {sizes} do not fit {self.input.unit}")

    def nodes_of(self, level: Level) -> int:
        """Nodes of a level in a unit."""
        return (self.input.unit // level.node_size) ** 2

    @cached_property
    def nodes(self) -> int:
        """Nodes of a unit, of all levels."""
        return sum(map(self.nodes_of, self.levels))

    @cached_property
    def logits(self) -> int:
        """Logits of a unit."""
        return sum(self.nodes_of(level) * level.logits for level in self.levels)

    @cached_property
    def probabilities(self) -> int:
        """Probabilities of a unit."""
        return sum(self.nodes_of(level) * len(level.types) for level in self.levels)

    @property
    def one_node(self) -> bool:
        """Whether a unit is a node, as with blocks: then arrays have no axis of nodes, and names no size."""
        return self.nodes == 1

    def level(self, node_size: int) -> Level:
        """The level of that node size.

        Raises:
            KeyError: if there is none.
        """
        return {level.node_size: level for level in self.levels}[node_size]

    def suffix(self, level: Level) -> str:
        """What tells a level's head, array or output from those of others: "_32"; "" if a unit is one node."""
        return "" if self.one_node else f"_{level.node_size}"

    def node_slices(self) -> dict[int, slice]:
        """Where each level's nodes lie among a unit's, by node size."""
        return self._slices(lambda level: 1)

    def split_logits(self, logits: Array) -> dict[int, Array]:
        """Views of `logits` [N, task.logits] by node size: [N, nodes, level.logits]. numpy and torch alike."""
        return self._views(logits, lambda level: level.logits)

    def split_probability(self, probability: Array) -> dict[int, Array]:
        """Views of `probability` [N, task.probabilities] by node size: [N, nodes, types]. numpy and torch alike."""
        return self._views(probability, lambda level: len(level.types))

    def _slices(self, each: Callable[[Level], int]) -> dict[int, slice]:
        slices, start = {}, 0
        for level in self.levels:
            stop = start + self.nodes_of(level) * each(level)
            slices[level.node_size] = slice(start, stop)
            start = stop
        return slices

    def _views(self, array: Array, each: Callable[[Level], int]) -> dict[int, Array]:
        parts = self._slices(each)
        return {
            level.node_size: array[:, parts[level.node_size]].reshape(-1, self.nodes_of(level), each(level))
            for level in self.levels
        }

    def probability(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities float64 [N, task.probabilities] from logits float [N, task.logits], by the chain rule."""
        parts = self.split_logits(logits)
        by_level = [chain_rule(parts[level.node_size], level) for level in self.levels]
        return np.concatenate([p.reshape(len(logits), -1) for p in by_level], 1)

    def likeliest(self, probability: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The likeliest type of each node, uint8 [N, task.nodes], from `probability` float [N, task.probabilities]."""
        parts = self.split_probability(probability)
        ids = [np.array(level.types, np.uint8)[parts[level.node_size].argmax(2)] for level in self.levels]
        return np.concatenate(ids, 1)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of a graph's outputs, in order: logits of each level, then probability of each, then partition of each."""
        return tuple(f"{kind}{self.suffix(level)}" for kind in OUTPUT_KINDS for level in self.levels)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for run.json, manifest, ONNX metadata and blob."""
        form = self.input
        return {
            "name": self.name,
            "input": {"unit": form.unit, "border": form.border, "channels": form.channels},
            "levels": [
                {
                    "node_size": level.node_size,
                    "types": [p.name for p in level.types],
                    "heads": [
                        {"name": h.name, "classes": list(h.classes), "divides": h.divides and list(h.divides)}
                        for h in level.heads
                    ],
                }
                for level in self.levels
            ],
        }

    @staticmethod
    def from_json(values: Any) -> Task:
        """The inverse of to_json.

        Raises:
            ValueError: if the values describe no task.
        """
        try:
            form, levels = values["input"], values["levels"]
            if set(values) != {"name", "input", "levels"} or not isinstance(values["name"], str):
                raise ValueError("a task has a name, an input and levels")
            if not all(type(form[key]) is int for key in form):
                raise ValueError("an input form holds whole numbers")
            return Task(values["name"], InputForm(**form), tuple(map(_level_from, levels)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it describes no task of this version: {error}") from None


def _level_from(values: Mapping[str, Any]) -> Level:
    heads = tuple(
        Head(h["name"], tuple(h["classes"]), None if h["divides"] is None else tuple(h["divides"]))
        for h in values["heads"]
    )
    return Level(values["node_size"], tuple(Partition[name] for name in values["types"]), heads)


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


BLOCKS = Task("blocks", InputForm(16), (level_of(16),))
"""16x16 blocks by themselves."""

BLOCKS_IN_CONTEXT = Task("blocks-in-context", InputForm(16, border=8, channels=2), (level_of(16),))
"""16x16 blocks with 8 samples around each; the second channel is the whole area at half resolution."""

TASKS: dict[str, Task] = {task.name: task for task in (BLOCKS, BLOCKS_IN_CONTEXT)}
"""Those that ship. A task from a file need not be among them."""


def task_of_border(border: object) -> Task:
    """The task of files from before tasks were written down, which told a border alone.

    Raises:
        ValueError: for a border that none of them had.
    """
    for task in (BLOCKS, BLOCKS_IN_CONTEXT):
        if type(border) is int and task.input.border == border:
            return task
    raise ValueError(f"its model sees a border of {border!r}; such files have 0 or 8")
