"""The three stages of training, as values: what each trains, on which nodes, and what stays as it is.

| stage | trains | on | frozen |
|---|---|---|---|
| 1 | trunk, qindex embedding, each level's first head (*) | all nodes | - |
| 2 | adapters, the heads that divide the first ones' classes | nodes of those classes | what stage 1 trains |
| 3 | all heads below | nodes of their classes | everything else |

(*) and an auxiliary head over all of a level's types, dropped afterwards.

Which heads those are follows from a task's hierarchy: NONE / PARTITIONED; then the macro-classes; then RECT, AB and
FOUR. A task of flat heads has stage 1 alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from description import NO_SAY, Head, Level, Task
from partition import COVERED, Partition


@dataclass(frozen=True)
class StageHead:
    """One head that a stage trains.

    Attributes:
        key: its name in PartitionModel.heads.
        place: of its level in Task.levels.
        level, head: what it is.
    """

    key: str
    place: int
    level: Level
    head: Head

    @property
    def targets(self) -> NDArray[np.int64]:
        """Class of every label, as by_label."""
        return by_label(self.level.targets[self.head.name])


def by_label(by_partition: NDArray[np.int64]) -> NDArray[np.int64]:
    """A table over partition ids, int64 [10], as one over labels, int64 [256]: COVERED counts as NONE, OUTSIDE has
    no say."""
    table = np.full(256, NO_SAY, np.int64)
    table[: len(Partition)] = by_partition
    table[COVERED] = table[Partition.NONE]
    return table


@dataclass(frozen=True)
class Stage:
    """One stage. The epoch kept is the one with the best mean over its heads of what TrainConfig.select says.

    Attributes:
        number: as the command line and run.json have it.
        name: in words.
        depths: of the heads that it trains: 0 for a level's first one, 1 for those that divide its classes, ...
        trains: the parts of the model that it trains besides heads.
        frozen: the parts that stay as they are, BatchNorm included.
        idle: the parts that have no say in it.
        adapted: whether its heads see the features of the adapters, or of the bare trunk.
        auxiliary: whether a head over all types may train beside, to be dropped afterwards.
        passes: whether an epoch goes through the pairs as often as TrainConfig.passes says, each pair once a pass;
            otherwise it goes once, and TrainConfig.sampler chooses the pairs.
        seed_metrics: where the seed's scripts look for its metrics, in the run folder.
    """

    number: int
    name: str
    depths: range
    trains: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    adapted: bool = True
    auxiliary: bool = False
    passes: bool = False
    seed_metrics: Path | None = None

    def heads(self, task: Task) -> tuple[StageHead, ...]:
        """The heads it trains: level after level, in the order of each hierarchy."""
        return tuple(
            StageHead(head.name + task.suffix(level), place, level, head)
            for place, level in enumerate(task.levels)
            for head in level.heads
            if _depth(level, head) in self.depths
        )

    def keys(self, task: Task) -> tuple[str, ...]:
        """Names of those heads in PartitionModel.heads."""
        return tuple(head.key for head in self.heads(task))

    def kept(self, task: Task) -> tuple[str, ...]:
        """How the names of weights begin that it takes over from an earlier run, if it is the first of its own."""
        earlier = [stage for stage in STAGES if stage.number < self.number]
        parts = [f"{part}." for stage in earlier for part in stage.trains]
        return (*parts, *(f"heads.{key}." for stage in earlier for key in stage.keys(task)))


STAGES = (
    Stage(
        1,
        "trunk",
        range(1),
        trains=("trunk", "embedding"),
        idle=("adapters",),
        adapted=False,
        auxiliary=True,
        passes=True,
    ),
    Stage(
        2,
        "adapters",
        range(1, 2),
        trains=("adapters",),
        frozen=("trunk", "embedding"),
        # The seed's scripts compared runs by this file and its key best_f1.
        seed_metrics=Path("stage2_adapter") / "stage2_adapter_metrics.json",
    ),
    Stage(3, "last heads", range(2, len(Partition)), frozen=("trunk", "embedding", "adapters")),
)


def _depth(level: Level, head: Head) -> int:
    return 0 if head.divides is None else 1 + _depth(level, level.head(head.divides[0]))


def stages_of(task: Task) -> tuple[Stage, ...]:
    """Those that have a head to train at one level at least."""
    return tuple(stage for stage in STAGES if stage.heads(task))


def stages_of_run(numbers: Iterable[int], task: Task) -> tuple[Stage, ...]:
    """The stages of a run: one alone, or all from one on.

    Raises:
        ValueError: if these cannot be trained in one run.
    """
    asked, there = tuple(numbers), stages_of(task)
    runs = [(stage,) for stage in there] + [there[i:] for i in range(len(there) - 1)]
    for run in runs:
        if asked == tuple(stage.number for stage in run):
            return run
    have = ", ".join(str(stage.number) for stage in there)
    raise ValueError(f"stages {asked} cannot be trained in one run: the task has {have}")


def stage_targets(stage: Stage, label: NDArray[np.integer], task: Task) -> NDArray[np.int64]:
    """Class of every pair in a stage, for sampling: int64 [M], NO_SAY where the stage leaves the pair out.

    A node's class is that of the stage's head over it; classes are numbered through all heads and levels. A pair of
    several nodes is of the class that is rarest among all nodes.

    Args:
        stage: which.
        label: partition id, COVERED (which counts as NONE) or OUTSIDE of each node, integer [M, task.nodes].
        task: whose nodes they are.
    """
    classes = np.full(label.shape, NO_SAY, np.int64)
    start, nodes = 0, task.node_slices()
    for head in stage.heads(task):
        part = nodes[head.level.node_size]
        own = head.targets[label[:, part]]
        classes[:, part] = np.where(own == NO_SAY, classes[:, part], own + start)
        start += len(head.head.classes)
    if task.one_node:
        return classes[:, 0]
    usable = classes != NO_SAY
    # The last entry, more than any count, stands for nodes without a say.
    count = np.append(np.bincount(classes[usable], minlength=start), label.size + 1)
    rarest = count[classes].argmin(1)
    return classes[np.arange(len(classes)), rarest]


def selection(stage: Stage, task: Task, heads: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What the epoch to keep is chosen by: val_loss and val_macro_f1, means over the stage's heads.

    Args:
        stage: which.
        task: of the model.
        heads: metrics by key (train.measures.judgement.all_heads).
    """
    mine = [heads[key] for key in stage.keys(task)]
    return {
        "val_loss": float(np.mean([m["log_loss"] for m in mine])),
        "val_macro_f1": float(np.mean([m["macro_f1"] for m in mine])),
    }
