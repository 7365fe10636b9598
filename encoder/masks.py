"""Partition maps that no model made, to bound what a model can gain (benchmarks/encoder.py) and to test the encoder.

undecided     libaom decides everything: the stream of no map at all
oracle        NONE and what a normal encode of the same frame chose
none          NONE alone: what every model must beat
random        NONE and a type drawn evenly
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from encoder.partition_map import UNDECIDED, MapFormat, PartitionMap
from partition import COVERED, NODE_SIZE, Partition


def map_of_whole_nodes(form: MapFormat, masks: NDArray[np.integer]) -> PartitionMap:
    """A map whose whole nodes have these masks; those that straddle the edge are undecided.

    Args:
        form: of its frames.
        masks: integer [frames, height // 16, width // 16].
    """
    rows, cols = form.height // NODE_SIZE, form.width // NODE_SIZE
    every = np.full((len(masks), *form.grid), UNDECIDED, np.uint16)
    every[:, :rows, :cols] = masks
    return PartitionMap(form, every, None)


def oracle_masks(labels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """NONE and the label; covered nodes, which have no partition, get NONE alone. Shapes are those of `labels`."""
    types = np.where(labels == COVERED, np.uint8(Partition.NONE), labels)
    return np.uint16(1) | (np.uint16(1) << types.astype(np.uint16))


def random_masks(shape: tuple[int, ...], seed: int) -> NDArray[np.uint16]:
    """NONE and one of the ten types."""
    types = np.random.default_rng(seed).integers(0, len(Partition), shape)
    return np.uint16(1) | (np.uint16(1) << types.astype(np.uint16))
