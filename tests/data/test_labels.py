"""data/labels.py: each node of each block of a frame, against a loop over blocks and nodes."""

import numpy as np
import pytest

from data.labels import block_labels
from description import BLOCKS, InputForm, Task, level_of
from partition import COVERED, OUTSIDE, partitions_from_map, tree_partitions
from tests.helpers import random_frame

SUPERBLOCK = Task("superblock", InputForm(64, 8), tuple(map(level_of, (64, 32, 16, 8))))
MIDDLE = Task("middle", InputForm(64), (level_of(32),))


def slow_labels(bsize, width, height, task):
    """Block after block, level after level, node after node."""
    tree, unit = tree_partitions(bsize), task.input.unit
    rows, cols = -(-height // unit), -(-width // unit)
    blocks = []
    for row, col in np.ndindex(rows, cols):
        nodes = []
        for level in task.levels:
            size = level.node_size
            for y in range(row * unit, (row + 1) * unit, size):
                for x in range(col * unit, (col + 1) * unit, size):
                    inside = y + size <= height and x + size <= width
                    nodes.append(tree[size][y // size, x // size] if inside else OUTSIDE)
        blocks.append(nodes)
    return np.array(blocks, np.uint8).reshape(rows, cols, -1)


@pytest.mark.parametrize("task", [BLOCKS, SUPERBLOCK, MIDDLE], ids=lambda task: task.name)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 136), (100, 70), (33, 71), (16, 16), (130, 65)])
@pytest.mark.parametrize("seed", range(3))
def test_labels_are_the_slow_twins(task, width, height, seed):
    bsize, _ = random_frame(seed, width, height)
    found = block_labels(bsize, width, height, task)
    assert found.dtype == np.uint8 and found.shape == (*task.input.grid(width, height), task.nodes)
    assert np.array_equal(found, slow_labels(bsize, width, height, task))


@pytest.mark.parametrize(("width", "height"), [(200, 136), (33, 71)])
def test_blocks_of_16_have_the_labels_that_they_always_had(width, height):
    bsize, expected = random_frame(4, width, height)
    found = block_labels(bsize, width, height, BLOCKS)[:, :, 0]
    assert np.array_equal(found[: height // 16, : width // 16], partitions_from_map(bsize, width, height))
    assert np.array_equal(found[: height // 16, : width // 16], expected)
    assert (found[height // 16 :] == OUTSIDE).all() and (found[:, width // 16 :] == OUTSIDE).all()


def test_real_maps_have_nodes_covered_places_and_edges(sample):
    seen = set()
    for picture in sample.pictures[:6]:
        _, label = sample.labels(picture, SUPERBLOCK)
        seen |= set(np.unique(label).tolist())
        for size, part in SUPERBLOCK.node_slices().items():
            legal = {int(p) for p in SUPERBLOCK.level(size).types} | {COVERED, OUTSIDE}
            assert set(np.unique(label[..., part]).tolist()) <= legal
    assert seen == {*range(10), COVERED, OUTSIDE}
