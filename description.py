"""What a model reads and answers, as one value: a task.

    Task                 the superblock's way              the block's way
    ├─ InputForm         unit 64, border 0                 unit 16, border 0 or 8
    └─ levels            64, 32, 16, 8                     16
       └─ Level          node size, legal types,           16, ten types,
          └─ heads       the hierarchy over them           five heads, 14 logits

A task is written to run.json, the manifest, each ONNX file's metadata and each blob, and read from there by whoever
opens them; no other module knows how many types, heads, logits or samples there are. This one knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hierarchy import NO_SAY, PARTITION_HIERARCHY, Head, Level, chain_rule, hierarchy_of, level_of
from partition import Partition

__all__ = [
    "BLOCKS",
    "BLOCKS_IN_CONTEXT",
    "FRAME_4K",
    "FRAME_1080P",
    "LARGEST_UNIT",
    "NO_SAY",
    "OUTPUT_KINDS",
    "PARTITION_HIERARCHY",
    "TASKS",
    "Head",
    "InputForm",
    "Level",
    "Task",
    "chain_rule",
    "hierarchy_of",
    "level_of",
    "task_of_border",
]

Array = TypeVar("Array", bound=Any)
"""A numpy array or a torch tensor."""

OUTPUT_KINDS = ("logits", "probability", "partition")
LARGEST_UNIT = 64
FRAME_1080P, FRAME_4K = (1920, 1080), (3840, 2160)
"""Width and height of the frames that batches are made for, in luma samples."""


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
