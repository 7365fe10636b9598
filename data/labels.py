"""What a block-size map says of each node of each block that a model reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from description import Task
from partition import OUTSIDE, tree_partitions


def block_labels(bsize: NDArray[np.uint8], width: int, height: int, task: Task) -> NDArray[np.uint8]:
    """The labels of all blocks of a frame, those that straddle its edge included.

    Args:
        bsize: block-size map, uint8 [R, C], checked (data.dataset.Dataset.block_size_maps).
        width, height: frame size in luma samples.
        task: which levels, and the side of a block.

    Returns:
        uint8 [rows, cols, task.nodes]: partition id, COVERED, or OUTSIDE for a node not wholly inside the frame.
    """
    rows, cols = task.input.grid(width, height)
    tree = tree_partitions(bsize, task.levels[-1].node_size)
    parts = []
    for level in task.levels:
        size = level.node_size
        across = task.input.unit // size
        label = np.full((rows * across, cols * across), OUTSIDE, np.uint8)
        inside = slice(0, height // size), slice(0, width // size)
        label[inside] = tree[size][inside]
        parts.append(label.reshape(rows, across, cols, across).swapaxes(1, 2).reshape(rows, cols, across * across))
    return np.concatenate(parts, 2)
