"""benchmarks/block_statistics.py against a slow twin, block by block, on real blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.block_statistics import NAMES, block_statistics, dct_matrix


def slow_statistics(block):
    """By name, of one block of 8-bit samples."""
    x = block.astype(float)

    def log_variance(part):
        return math.log(1 + np.mean((part - part.mean()) ** 2))

    quarters = [x[r : r + 8, c : c + 8] for r in (0, 8) for c in (0, 8)]
    small = [log_variance(x[r : r + 4, c : c + 4]) for r in range(0, 16, 4) for c in range(0, 16, 4)]
    halves = {"top": x[:8], "bottom": x[8:], "left": x[:, :8], "right": x[:, 8:]}
    dx = [abs(x[r, c + 1] - x[r, c]) for r in range(16) for c in range(15)]
    dy = [abs(x[r + 1, c] - x[r, c]) for r in range(15) for c in range(16)]
    energies = dict.fromkeys(("horizontal", "vertical", "low", "middle", "high"), 0.0)
    basis = [
        [math.cos(math.pi * (n + 0.5) * k / 16) * math.sqrt((1 if k == 0 else 2) / 16) for n in range(16)]
        for k in range(16)
    ]
    for v in range(16):
        for h in range(16):
            value = float(np.dot(basis[v], x @ np.array(basis[h]))) ** 2
            if v and h:
                energies["low" if max(v, h) < 4 else "middle" if max(v, h) < 8 else "high"] += value
            elif v or h:
                energies["vertical" if v else "horizontal"] += value
    return {
        "mean": x.mean(),
        "variance": log_variance(x),
        **{f"variance_8x8_{i}": log_variance(q) for i, q in enumerate(quarters)},
        "variance_4x4_mean": np.mean(small),
        "variance_4x4_min": min(small),
        "variance_4x4_max": max(small),
        "variance_4x4_spread": np.std(small),
        **{f"variance_{name}": log_variance(half) for name, half in halves.items()},
        "step_down": abs(halves["top"].mean() - halves["bottom"].mean()),
        "step_right": abs(halves["left"].mean() - halves["right"].mean()),
        "variance_row_means": log_variance(x.mean(1)),
        "variance_column_means": log_variance(x.mean(0)),
        "gradient_x_mean": np.mean(dx),
        "gradient_y_mean": np.mean(dy),
        "gradient_x_max": max(dx),
        "gradient_y_max": max(dy),
        **{f"dct_{name}": math.log(1 + value) for name, value in energies.items()},
    }


def test_statistics_are_the_slow_twins(real_blocks):
    blocks = real_blocks[0][:24]
    found = block_statistics(blocks)
    assert found.shape == (24, len(NAMES)) and found.dtype == np.float32
    for row, block in zip(found, blocks, strict=True):
        expected = slow_statistics(block)
        assert tuple(expected) == NAMES
        assert np.allclose(row, list(expected.values()), rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("bit_depth", [10, 12])
def test_statistics_are_in_units_of_8_bit_samples(real_blocks, bit_depth):
    blocks = real_blocks[0][:64]
    deep = np.round(blocks.astype(float) * ((1 << bit_depth) - 1) / 255).astype(np.uint16)
    assert np.allclose(block_statistics(deep, bit_depth), block_statistics(blocks), rtol=0.02, atol=0.2)


def test_parts_make_the_whole(real_blocks):
    many = np.resize(real_blocks[0], (20_000, 16, 16))
    assert np.array_equal(block_statistics(many)[-7:], block_statistics(many[-7:]))


def test_the_dct_is_orthonormal():
    assert np.allclose(dct_matrix() @ dct_matrix().T, np.eye(16), atol=1e-6)
