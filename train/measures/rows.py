"""The nodes of one level out of what is said and known of whole blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from description import Level, Task
from partition import OUTSIDE


@dataclass(frozen=True)
class LevelRows:
    """All nodes of a level that lie inside their frames, pair after pair.

    Attributes:
        level: whose nodes they are.
        logits: float [K, level.logits].
        label: partition id or COVERED, integer [K].
        pair: row of each node's pair, int64 [K].
    """

    level: Level
    logits: NDArray[np.floating]
    label: NDArray[np.integer]
    pair: NDArray[np.int64]


def level_rows(logits: NDArray[np.floating], label: NDArray[np.integer], task: Task) -> Iterator[LevelRows]:
    """The rows of each level, from the largest nodes down.

    Args:
        logits: float [M, task.logits].
        label: partition id, COVERED or OUTSIDE of each node, integer [M, task.nodes].
        task: whose arrays these are.
    """
    parts, nodes = task.split_logits(logits), task.node_slices()
    for level in task.levels:
        known = label[:, nodes[level.node_size]]
        inside = known != OUTSIDE
        yield LevelRows(level, parts[level.node_size][inside], known[inside], np.nonzero(inside)[0].astype(np.int64))
