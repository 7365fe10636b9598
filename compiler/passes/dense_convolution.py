"""A convolution on a small map as one dense matrix, and the order in which a map lies in a row.

Orders of a map [C, H, W] as a row of C*H*W values:

    "channel"    all positions of channel 0, then of channel 1, ...: how a map lies in memory, so no copy is needed
    "position"   all channels of position 0, then of position 1, ...; positions in Morton order on a square map whose
                 side is a power of two, so that the patches of a 2x2/2 convolution lie side by side:

                     0  1 | 4  5
                     2  3 | 6  7
                     -----+-----
                     8  9 |12 13
                    10 11 |14 15
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]
"""Channels, height, width."""

ORDERS = ("channel", "position")


def is_morton(height: int, width: int) -> bool:
    """Whether positions of such a map are in Morton order under "position"."""
    return height == width and height & (height - 1) == 0


def positions(height: int, width: int) -> NDArray[np.int64]:
    """Row-major index of each position in the order of "position", int64 [H * W]."""
    if not is_morton(height, width):
        return np.arange(height * width)
    y, x = np.divmod(np.arange(height * width), width)
    key = np.zeros_like(y)
    for bit in range(max(height.bit_length() - 1, 0)):
        key |= (((y >> bit) & 1) << (2 * bit + 1)) | (((x >> bit) & 1) << (2 * bit))
    return np.argsort(key)


def row_index(shape: Shape, order: str) -> NDArray[np.int64]:
    """Where, in "channel" order, each value of a row in this order comes from, int64 [C * H * W]."""
    channels, height, width = shape
    index = np.arange(channels * height * width).reshape(channels, height * width)
    return index.ravel() if order == "channel" else index[:, positions(height, width)].T.ravel()


@torch.no_grad()
def dense_matrix(conv: nn.Conv2d, shape: Shape, order: str, out_order: str) -> tuple[Tensor, Tensor]:
    """The matrix M and bias b with which row @ M + b is what the convolution computes.

    Every unit vector is put through the convolution: products with 1 and sums with 0 are exact.

    Args:
        conv: any nn.Conv2d.
        shape: of its input map.
        order, out_order: of the input and the output row, one of ORDERS.

    Returns:
        float64 [C H W, C' H' W'] and float64 [C' H' W'].
    """
    size = int(np.prod(shape))
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    weight = conv.weight.double()
    columns = F.conv2d(units, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    out_shape: Shape = (columns.shape[1], columns.shape[2], columns.shape[3])
    matrix = columns.reshape(size, -1)[row_index(shape, order)][:, row_index(out_shape, out_order)]
    bias = torch.zeros(out_shape[0]) if conv.bias is None else conv.bias
    spread = bias.double()[:, None].expand(-1, out_shape[1] * out_shape[2]).reshape(-1)
    return matrix, spread[row_index(out_shape, out_order)]


def is_patchwise(conv: nn.Conv2d, shape: Shape) -> bool:
    """Whether the convolution cuts its map into several patches that lie side by side in a row in "position" order.

    Then rows [N, P * patch] are rows [N * P, patch], and one small matrix serves every patch.
    """
    k = conv.kernel_size[0]
    square = conv.kernel_size == (k, k) == tuple(conv.stride) and set(conv.padding) == {0}
    whole = shape[1] > k and is_morton(shape[1], shape[2]) and k & (k - 1) == 0
    return bool(square and whole and conv.groups == 1)


@torch.no_grad()
def patch_matrix(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """The matrix and bias of one patch: float64 [k k C, C'] and [C']; the patch in "position" order."""
    k = conv.kernel_size[0]
    matrix, bias = dense_matrix(conv, (conv.in_channels, k, k), "position", "position")
    return matrix, bias
