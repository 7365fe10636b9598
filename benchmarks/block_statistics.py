"""The hand-made statistics of a luma block that the field's decision trees work on: variances at several scales,
gradients, and energies of the DCT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAMES = (
    "mean",
    "variance",
    *(f"variance_8x8_{i}" for i in range(4)),
    *(f"variance_4x4_{what}" for what in ("mean", "min", "max", "spread")),
    *(f"variance_{half}" for half in ("top", "bottom", "left", "right")),
    "step_down",
    "step_right",
    "variance_row_means",
    "variance_column_means",
    *(f"gradient_{what}" for what in ("x_mean", "y_mean", "x_max", "y_max")),
    *(f"dct_{what}" for what in ("horizontal", "vertical", "low", "middle", "high")),
)


def block_statistics(blocks: NDArray[np.integer], bit_depth: int = 8) -> NDArray[np.float32]:
    """Statistics of each block, float32 [B, len(NAMES)]; variances and energies as ln(1 + v) of 8-bit units.

    Args:
        blocks: raw samples [B, 16, 16].
        bit_depth: of the samples.
    """
    return np.concatenate([_of(part, bit_depth) for part in np.array_split(blocks, max(1, len(blocks) // 8192))])


def _of(blocks: NDArray[np.integer], bit_depth: int) -> NDArray[np.float32]:
    x = blocks.astype(np.float32) * (255.0 / ((1 << bit_depth) - 1))
    quarters = _tiles(x, 8).var((3, 4)).reshape(len(x), 4)
    small = np.log1p(_tiles(x, 4).var((3, 4)).reshape(len(x), 16))
    halves = x[:, :8], x[:, 8:], x[:, :, :8], x[:, :, 8:]
    dx, dy = np.abs(np.diff(x, axis=2)), np.abs(np.diff(x, axis=1))
    logs = [x.var((1, 2)), *quarters.T]
    columns = [
        x.mean((1, 2)),
        *np.log1p(logs),
        *(small.mean(1), small.min(1), small.max(1), small.std(1)),
        *(np.log1p(half.var((1, 2))) for half in halves),
        np.abs(halves[0].mean((1, 2)) - halves[1].mean((1, 2))),
        np.abs(halves[2].mean((1, 2)) - halves[3].mean((1, 2))),
        *(np.log1p(x.mean(axis).var(1)) for axis in (2, 1)),
        *(dx.mean((1, 2)), dy.mean((1, 2)), dx.max((1, 2)), dy.max((1, 2))),
        *_dct_energies(x),
    ]
    return np.stack(columns, 1).astype(np.float32)


def _tiles(x: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """[B, 16 / side, 16 / side, side, side]."""
    count = 16 // side
    return x.reshape(len(x), count, side, count, side).swapaxes(2, 3)


def dct_matrix(size: int = 16) -> NDArray[np.float32]:
    """The orthonormal DCT-II: rows are frequencies."""
    k, n = np.indices((size, size))
    matrix = np.sqrt(2.0 / size) * np.cos(np.pi * (n + 0.5) * k / size)
    matrix[0] /= np.sqrt(2.0)
    return matrix.astype(np.float32)


def _dct_energies(x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """ln(1 + energy) of the purely horizontal and vertical frequencies, and of three bands of the others."""
    matrix = dct_matrix()
    energy = (matrix @ x @ matrix.T) ** 2
    v, h = np.indices((16, 16))
    band = np.maximum(v, h)
    parts = [(v == 0) & (h > 0), (h == 0) & (v > 0)]
    parts += [(v > 0) & (h > 0) & (band >= low) & (band < high) for low, high in ((1, 4), (4, 8), (8, 16))]
    return [np.log1p(energy[:, part].sum(1)) for part in parts]
