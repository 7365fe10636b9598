"""Cut luma planes into the blocks that a model reads, with a border or without."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from description import InputForm


def cut_blocks(luma: NDArray[np.integer], form: InputForm) -> NDArray[np.integer]:
    """All blocks of a luma plane in raster order; beyond the frame's edges the last row or column goes on.

    Args:
        luma: samples [H, W], uint8 or uint16, H and W at least 1.
        form: unit and border; the border holds the plane's own samples, replicated beyond its edges.

    Returns:
        [ceil(H / unit) * ceil(W / unit), S, S] with S the form's side, same dtype, contiguous.
    """
    height, width = luma.shape
    unit, border, side = form.unit, form.border, form.side
    rows, cols = form.grid(width, height)
    below, right = rows * unit - height + border, cols * unit - width + border
    padded = np.pad(luma, ((border, below), (border, right)), mode="edge")
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (side, side))[::unit, ::unit]
    return np.ascontiguousarray(tiles).reshape(rows * cols, side, side)


def in_frame(nodes: NDArray, grid: tuple[int, int]) -> NDArray:
    """What was said of the nodes of each block, laid out as the nodes of the frame: the inverse of cutting.

    Args:
        nodes: [rows * cols, n, k], any dtype: blocks in raster order, and the n nodes of each in theirs.
        grid: rows and cols of blocks.

    Returns:
        [rows * sqrt(n), cols * sqrt(n), k].
    """
    rows, cols = grid
    across = math.isqrt(nodes.shape[1])
    split = nodes.reshape(rows, cols, across, across, nodes.shape[2])
    return split.swapaxes(1, 2).reshape(rows * across, cols * across, nodes.shape[2])
