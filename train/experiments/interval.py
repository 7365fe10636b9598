"""Means over seeds, 95 % intervals, and what they allow to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# 97.5 % quantiles of Student's t for 1 to 19 degrees of freedom.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093),
)
NOT_SEPARABLE = "not separable from noise"


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its 95 % interval (Student's t over seeds)."""

    mean: float
    half: float


def interval(values: Sequence[float]) -> Interval:
    """Of independent values; the half width is infinite for one value alone.

    Args:
        values: 1 to 20 of them.

    Raises:
        ValueError: for none, or more than 20.
    """
    if not 1 <= len(values) <= len(T_975) + 1:
        raise ValueError(f"an interval is of 1 to {len(T_975) + 1} values, not of {len(values)}")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, math.inf)
    return Interval(mean, T_975[len(values) - 2] * float(np.std(values, ddof=1)) / math.sqrt(len(values)))


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Of values minus baseline, seed by seed.

    Raises:
        ValueError: if they are not of the same seeds.
    """
    return interval([a - b for a, b in zip(values, baseline, strict=True)])


def verdict(difference: Interval) -> str:
    """ "gain", "loss", or that the interval holds 0; of a figure that is better when higher."""
    if abs(difference.mean) <= difference.half:
        return NOT_SEPARABLE
    return "gain" if difference.mean > 0 else "loss"
