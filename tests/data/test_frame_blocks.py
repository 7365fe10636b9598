"""data/frame_blocks.py: blocks of frames, beside those that are cut from the same planes by hand."""

import numpy as np
import pytest

from data.cutting import cut_blocks
from data.frame_blocks import FrameBlocks
from description import BLOCKS, BLOCKS_IN_CONTEXT
from frames.frame import FrameFormat
from tests.helpers import random_luma

FORM = FrameFormat(40, 37, 8, "mono")


@pytest.fixture
def clip(tmp_path):
    """Three grey frames of 40x37, [3, 37, 40], in a raw file."""
    planes = np.stack([random_luma(seed, 40, 37) for seed in range(3)])
    (tmp_path / "clip.yuv").write_bytes(planes.tobytes())
    return tmp_path / "clip.yuv", planes


@pytest.mark.parametrize("form", [BLOCKS.input, BLOCKS_IN_CONTEXT.input], ids=["plain", "bordered"])
@pytest.mark.parametrize("size", [1, 18, 100])
def test_frames_supply_the_border_themselves(clip, form, size):
    path, planes = clip
    source = FrameBlocks(path, FORM).with_form(form)
    chunks = list(source.chunks(size))
    expected = np.concatenate([cut_blocks(plane, form) for plane in planes])
    assert np.array_equal(np.concatenate(chunks), expected)
    assert source.count == len(expected) == 27 and source.grid == (3, 3)


def test_one_frames_border_is_not_of_the_next(clip):
    path, planes = clip
    blocks = np.concatenate(list(FrameBlocks(path, FORM).with_form(BLOCKS_IN_CONTEXT.input).chunks(100)))
    below = blocks[9 + 6, 24:, 8:24]
    assert (below == planes[1][36, :16]).all(), "the last row goes on below frame 1, not frame 2"


def test_a_source_keeps_its_own_border(clip):
    source = FrameBlocks(clip[0], FORM)
    source.with_form(BLOCKS_IN_CONTEXT.input)
    assert next(iter(source.chunks(9))).shape == (9, 16, 16)
