"""Arrays of blocks of several nodes as rows of one level's nodes, which is what metrics are taken of; numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from description import Level, Task
from partition import OUTSIDE


@dataclass(frozen=True)
class LevelRows:
    """The labelled nodes of one level; nodes outside the frame are left out.

    Attributes:
        level: whose nodes.
        suffix: of the level (Task.suffix).
        logits: float [K, level.logits].
        qindex: 0-255, integer [K].
        label: partition id or COVERED, integer [K].
    """

    level: Level
    suffix: str
    logits: NDArray[np.floating]
    qindex: NDArray[np.integer]
    label: NDArray[np.integer]


def rows_of(
    task: Task, logits: NDArray[np.floating], qindex: NDArray[np.integer], label: NDArray[np.integer]
) -> Iterator[LevelRows]:
    """The rows of each level.

    Args:
        task: of the model.
        logits: float [M, task.logits].
        qindex: 0-255, integer [M].
        label: 0-9, COVERED or OUTSIDE, integer [M, task.nodes].
    """
    nodes, parts = task.node_slices(), task.split_logits(logits)
    for level in task.levels:
        own = label[:, nodes[level.node_size]]
        inside = own != OUTSIDE
        q = np.broadcast_to(qindex[:, None], own.shape)
        yield LevelRows(level, task.suffix(level), parts[level.node_size][inside], q[inside], own[inside])
