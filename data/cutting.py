"""Cut luma planes into the 16x16 blocks that the model sees, with a border or without, and tell how many there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partition import NODE_SIZE


def cut_blocks(luma: NDArray[np.integer], border: int = 0) -> NDArray[np.integer]:
    """All 16x16 blocks of a luma plane in raster order; beyond the frame's edges the last row or column goes on.

    Args:
        luma: samples [H, W], uint8 or uint16, H and W at least 1.
        border: how many samples around each block come with it: the plane's own, replicated beyond its edges.

    Returns:
        [ceil(H/16) * ceil(W/16), S, S] with S = 16 + 2 border, same dtype, contiguous.
    """
    height, width = luma.shape
    rows, cols = node_grid(width, height)
    below, right = rows * NODE_SIZE - height + border, cols * NODE_SIZE - width + border
    padded = np.pad(luma, ((border, below), (border, right)), mode="edge")
    side = NODE_SIZE + 2 * border
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (side, side))[::NODE_SIZE, ::NODE_SIZE]
    return np.ascontiguousarray(tiles).reshape(rows * cols, side, side)


def node_grid(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of 16x16 nodes of a frame, those that straddle its edge included."""
    return -(-height // NODE_SIZE), -(-width // NODE_SIZE)
