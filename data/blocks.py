"""Cut luma planes into the 16x16 blocks that the model sees, and put per-block results back onto the frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partition import NODE_SIZE


def cut_blocks(luma: NDArray[np.integer]) -> NDArray[np.integer]:
    """All 16x16 blocks of a luma plane in raster order; blocks at the frame edge replicate the last row or column.

    Args:
        luma: samples [H, W], uint8 or uint16, H and W at least 1.

    Returns:
        [ceil(H/16) * ceil(W/16), 16, 16], same dtype, contiguous.
    """
    height, width = luma.shape
    rows, cols = node_grid(width, height)
    padded = np.pad(luma, ((0, rows * NODE_SIZE - height), (0, cols * NODE_SIZE - width)), mode="edge")
    tiles = padded.reshape(rows, NODE_SIZE, cols, NODE_SIZE).swapaxes(1, 2)
    return np.ascontiguousarray(tiles).reshape(rows * cols, NODE_SIZE, NODE_SIZE)


def node_grid(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of 16x16 nodes of a frame, those that straddle its edge included."""
    return -(-height // NODE_SIZE), -(-width // NODE_SIZE)
