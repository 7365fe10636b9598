"""data/cutting.py against a loop over blocks and samples."""

import numpy as np
import pytest

from data.cutting import cut_blocks, in_frame
from description import BLOCKS, BLOCKS_IN_CONTEXT, InputForm
from tests.helpers import random_luma

PLAIN, WIDE, LARGE = BLOCKS.input, BLOCKS_IN_CONTEXT.input, InputForm(64, border=16)
FORMS = pytest.mark.parametrize("form", [PLAIN, WIDE, LARGE], ids=["16", "16 and 8 around", "64 and 16 around"])


def slow_cut(luma, form):
    """Blocks one by one, samples one by one; beyond the edge the last row or column goes on."""
    height, width = luma.shape
    places = range(-form.border, form.unit + form.border)

    def sample(y, x):
        return luma[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    blocks = []
    for top in range(0, height, form.unit):
        for left in range(0, width, form.unit):
            blocks.append([[sample(top + y, left + x) for x in places] for y in places])
    return np.array(blocks, luma.dtype)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (32, 16), (48, 80), (17, 31), (1, 1), (5, 40), (33, 16)])
@pytest.mark.parametrize("bit_depth", [8, 10])
@FORMS
def test_blocks_are_the_slow_twins(width, height, bit_depth, form):
    luma = random_luma(3, width, height, bit_depth)
    blocks = cut_blocks(luma, form)
    assert blocks.dtype == luma.dtype and blocks.flags.c_contiguous
    assert np.array_equal(blocks, slow_cut(luma, form))
    rows, cols = form.grid(width, height)
    assert len(blocks) == rows * cols


@FORMS
def test_a_plane_that_is_no_array_of_its_own_is_cut_alike(form):
    luma = random_luma(4, 70, 50)
    assert np.array_equal(cut_blocks(luma[3:45, 5:60:2], form), slow_cut(luma[3:45, 5:60:2], form))


def test_what_is_said_of_the_nodes_of_blocks_is_laid_out_as_in_the_frame():
    """Each node of 8x8 samples says its own: cut into blocks, split into nodes, and laid out again."""
    luma = random_luma(7, 48, 32)
    blocks = cut_blocks(luma, PLAIN)
    nodes = blocks.reshape(6, 2, 8, 2, 8).swapaxes(2, 3).reshape(6, 4, 64)
    expected = luma.reshape(4, 8, 6, 8).swapaxes(1, 2).reshape(4, 6, 64)
    assert np.array_equal(in_frame(nodes, (2, 3)), expected)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (50, 37)])
def test_the_middle_of_a_bordered_block_is_the_block_and_its_border_its_neighbours_samples(width, height):
    luma = random_luma(5, width, height)
    rows, cols = PLAIN.grid(width, height)
    plain = cut_blocks(luma, PLAIN).reshape(rows, cols, 16, 16)
    wide = cut_blocks(luma, WIDE).reshape(rows, cols, 32, 32)
    assert np.array_equal(wide[:, :, 8:24, 8:24], plain)
    assert np.array_equal(wide[:, 1:, 8:24, :8], plain[:, :-1, :, 8:]), "left"
    assert np.array_equal(wide[:, :-1, 8:24, 24:], plain[:, 1:, :, :8]), "right"
    assert np.array_equal(wide[1:, :, :8, 8:24], plain[:-1, :, 8:, :]), "above"
    assert np.array_equal(wide[:-1, :, 24:, 8:24], plain[1:, :, :8, :]), "below"
    assert np.array_equal(wide[1:, 1:, :8, :8], plain[:-1, :-1, 8:, 8:]), "the corner between three neighbours"
    assert (wide[0, :, :8] == wide[0, :, 8:9]).all() and (wide[:, 0, :, :8] == wide[:, 0, :, 8:9]).all()


FLIPS = {
    "left-right": (lambda a: a[..., ::-1], lambda grid: grid[:, ::-1]),
    "up-down": (lambda a: a[..., ::-1, :], lambda grid: grid[::-1]),
    "transpose": (lambda a: a.swapaxes(-1, -2), lambda grid: grid.swapaxes(0, 1)),
}


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("form", [PLAIN, WIDE], ids=["16", "16 and 8 around"])
def test_blocks_of_a_flipped_picture_are_the_flipped_blocks(flip, form):
    of_samples, of_nodes = FLIPS[flip]
    luma = random_luma(6, 80, 48)
    blocks = cut_blocks(luma, form)
    expected = of_nodes(of_samples(blocks).reshape(3, 5, *blocks.shape[1:]))
    found = cut_blocks(np.ascontiguousarray(of_samples(luma)), form)
    assert np.array_equal(found, expected.reshape(found.shape))
