"""A max pool on rows: each output value is the largest of a fixed list of input values.

map 4x4, window 3x3/2, padding 1       output 0 reads    a b     output 1 reads    b c d
                                       (corner)          e f     (edge)            f g h
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from compiler.passes.dense_convolution import Shape, row_index
from compiler.passes.share_branches import shape_of


def pool_row(row: Tensor, index: Tensor) -> Tensor:
    """The pooled row.

    Args:
        row: float [N, values].
        index: int64 [values out, window], from `pool_index`.
    """
    return row[:, index].amax(-1)


fx.wrap("pool_row")


def pool_index(pool: fx.Node, shape: Shape, order: str, out_order: str) -> Tensor:
    """Which values of its input row each value of a max pool's output row is the largest of.

    Args:
        pool: a call of F.max_pool2d.
        shape: of its input map.
        order, out_order: of its input and output row, of compiler.passes.dense_convolution.ORDERS.

    Returns:
        int64 [C H' W', window]; a window that the edge cuts repeats its first value, which changes no maximum.
    """
    channels, height, width = shape
    size = height * width
    units = torch.eye(size).reshape(size, 1, height, width)
    arguments: Any = pool.args[1:]
    pooled: Tensor = F.max_pool2d(units, *arguments, **pool.kwargs)  # type: ignore[assignment]
    seen = pooled.reshape(size, -1).numpy() > 0
    windows = [np.flatnonzero(column) for column in seen.T]
    widest = max(map(len, windows))
    padded = np.array([[*w, *[w[0]] * (widest - len(w))] for w in windows])
    by_channel = (np.arange(channels)[:, None, None] * size + padded).reshape(-1, widest)
    out_shape: Shape = (channels, *shape_of(pool)[2:])  # type: ignore[assignment]
    place = np.argsort(row_index(shape, order))
    return torch.from_numpy(place[by_channel[row_index(out_shape, out_order)]])
