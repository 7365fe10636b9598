"""Candidate sets: NONE, and every other type whose probability is at least a threshold. What an encoder feels of a
model is how many types it has left to try, and how often the one it would have chosen is not among them.

    share of pairs ^            .---
    whose type     |       .---'         each point is one threshold t: (mean set size, share kept)
    is kept        |    .-'              lower t: larger sets, more kept
                   |   /
                   +-----------------> types left to try, 1-10

Thresholds are named by the share of pairs that they keep ("0.98") on the pairs they were fitted on. numpy only, so
that bundles are judged by the same code as runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partition import candidate_sets

SHARES = ("0.99", "0.98", "0.95")
NONE_COLUMN = 0
"""NONE is the first type of every level."""

CURVE_THRESHOLDS = tuple(float(f"{t:.3g}") for t in np.geomspace(1e-4, 0.5, 25))


@dataclass(frozen=True)
class Keep:
    """Named thresholds.

    Attributes:
        thresholds: by the share kept, "0.99" and so on.
        fitted_on: what they were fitted on, such as "val" or "calib".
    """

    thresholds: Mapping[str, float]
    fitted_on: str


def fit_keep(probability: NDArray[np.floating], label: NDArray[np.integer], fitted_on: str) -> Keep:
    """The highest threshold, to four digits, that keeps the true type of each share of SHARES.

    Args:
        probability: float [K, types]; K at least 1.
        label: column of each node's type, integer [K].
        fitted_on: a name for these pairs.
    """
    true = np.sort(_true_probability(probability, label))
    # A pair is lost where the true type's probability lies below the threshold, so the k smallest may be.
    allowed = (math.floor((1 - float(share)) * len(true) + 1e-9) for share in SHARES)
    return Keep({s: _rounded_down(float(true[k])) for s, k in zip(SHARES, allowed, strict=True)}, fitted_on)


def _true_probability(probability: NDArray[np.floating], label: NDArray[np.integer]) -> NDArray[np.float64]:
    """Of each pair's own type, float64 [M]; 1 for NONE, which is always kept."""
    true = probability[np.arange(len(label)), label].astype(np.float64)
    return np.where(label == NONE_COLUMN, 1.0, true)


def _rounded_down(value: float) -> float:
    if value <= 0.0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    rounded = float(f"{math.floor(value / unit) * unit:.4g}")
    return rounded if rounded <= value else float(f"{rounded - unit:.4g}")


def operating_point(
    probability: NDArray[np.floating], label: NDArray[np.integer], threshold: float
) -> dict[str, float]:
    """What one threshold does on a set of pairs.

    Args:
        probability: float [K, types]; K at least 1.
        label: column of each node's type, integer [K].
        threshold: 0-1.

    Returns:
        threshold; kept, the share of pairs whose true type is in the set; mean_set, types in the set, 1-10; single,
        the share of pairs left with NONE alone.
    """
    sets = candidate_sets(probability, threshold)
    size = sets.sum(1)
    return {
        "threshold": threshold,
        "kept": float(sets[np.arange(len(label)), label].mean()),
        "mean_set": float(size.mean()),
        "single": float((size == 1).mean()),
    }


def candidate_report(probability: NDArray[np.floating], label: NDArray[np.integer], keep: Keep) -> dict[str, Any]:
    """The named thresholds, and the whole curve, on a set of pairs.

    Args:
        probability: float [K, types]; K at least 1.
        label: column of each node's type, integer [K].
        keep: the named thresholds.

    Returns:
        points: operating_point of each named threshold; curve: lists threshold, kept and mean_set of equal length,
        thresholds rising.
    """
    curve = [operating_point(probability, label, t) for t in CURVE_THRESHOLDS]
    return {
        "points": {share: operating_point(probability, label, t) for share, t in keep.thresholds.items()},
        "curve": {key: [point[key] for point in curve] for key in ("threshold", "kept", "mean_set")},
    }


def recorded_keep(evaluation: Mapping[str, Any]) -> Keep | None:
    """The thresholds that a level's report in run.json or a manifest holds; None if it holds none.

    Raises:
        ValueError: if what it holds are no thresholds.
    """
    if "keep" not in evaluation:
        return None
    values = evaluation["keep"]
    if not isinstance(values, Mapping) or not all(isinstance(t, int | float) and 0 <= t <= 1 for t in values.values()):
        raise ValueError("its thresholds of candidate sets are not numbers from 0 to 1")
    return Keep(values, str(evaluation.get("keep_fitted_on", "unknown pairs")))
