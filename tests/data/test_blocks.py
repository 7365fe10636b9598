"""data/blocks.py against a loop over blocks and samples."""

import numpy as np
import pytest

from data.blocks import cut_blocks, node_grid
from tests.helpers import random_luma


def slow_cut(luma):
    """Blocks one by one, samples one by one; beyond the edge the last row or column goes on."""
    height, width = luma.shape
    blocks = []
    for top in range(0, height, 16):
        for left in range(0, width, 16):
            block = [[luma[min(top + y, height - 1), min(left + x, width - 1)] for x in range(16)] for y in range(16)]
            blocks.append(block)
    return np.array(blocks, luma.dtype)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (32, 16), (48, 80), (17, 31), (1, 1), (5, 40), (33, 16)])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_blocks_are_the_slow_twins(width, height, bit_depth):
    luma = random_luma(3, width, height, bit_depth)
    blocks = cut_blocks(luma)
    assert blocks.dtype == luma.dtype and blocks.flags.c_contiguous
    assert np.array_equal(blocks, slow_cut(luma))
    rows, cols = node_grid(width, height)
    assert len(blocks) == rows * cols


def test_a_plane_that_is_no_array_of_its_own_is_cut_alike():
    luma = random_luma(4, 70, 50)
    assert np.array_equal(cut_blocks(luma[3:45, 5:60:2]), slow_cut(luma[3:45, 5:60:2]))
