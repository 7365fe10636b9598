"""Drawn edges are those of the partition: each line lies between two of its rectangles, and none is missing."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

from data.drawing import draw_comparison, partition_lines
from partition import COVERED, Partition
from tests import helpers


def painted(partition: Partition) -> np.ndarray:
    """Which rectangle of a 16x16 node each sample lies in, [16, 16]."""
    owner = np.zeros((16, 16), int)
    for i, (top, left, height, width) in enumerate(helpers.rectangles(partition, 16)):
        owner[top : top + height, left : left + width] = i
    return owner


def drawn_edges(lines) -> tuple[set, set]:
    """Unit edges that the segments cover: (y, x) left of which, and above which, a line runs."""
    vertical, horizontal = set(), set()
    for (x0, y0), (x1, y1) in lines:
        if x0 == x1:
            vertical |= {(y, x0) for y in range(min(y0, y1), max(y0, y1))}
        else:
            assert y0 == y1
            horizontal |= {(y0, x) for x in range(min(x0, x1), max(x0, x1))}
    return vertical, horizontal


@pytest.mark.parametrize("partition", list(Partition))
def test_lines_are_exactly_where_one_block_ends_and_the_next_begins(partition):
    nodes = np.full((2, 3), COVERED, np.uint8)
    nodes[1, 2] = partition
    vertical, horizontal = drawn_edges(partition_lines(nodes, partition))
    owner = painted(partition)
    y, x = np.nonzero(owner[:, 1:] != owner[:, :-1])
    assert vertical == {(int(a) + 16, int(b) + 1 + 32) for a, b in zip(y, x, strict=True)}
    y, x = np.nonzero(owner[1:] != owner[:-1])
    assert horizontal == {(int(a) + 1 + 16, int(b) + 32) for a, b in zip(y, x, strict=True)}


def test_covered_counts_as_none_in_the_share_that_agrees():
    true = np.array([[COVERED, Partition.HORZ]], np.uint8)
    predicted = np.array([[Partition.NONE, Partition.VERT]], np.uint8)
    figure = draw_comparison(np.tile(np.arange(32, dtype=np.uint8), (16, 1)), true, predicted, "a title")
    assert "50 % agree" in figure.axes[1].get_title()
    assert figure.get_suptitle() == "a title"


@pytest.mark.parametrize("name", ["a$\\frac$b", "$x", "100% _^{", "画像", "a\nb", "%FF"])
def test_any_name_stands_above_a_picture(name):
    """Dollar signs are no formula, and letters that the font lacks give no warning."""
    luma, nodes = helpers.random_luma(0, 32, 16), np.zeros((1, 2), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_comparison(luma, nodes, nodes, f"{name}, qindex 80").savefig(io.BytesIO(), format="png")
