"""Figures of a model on labelled pairs with 95 % intervals over pictures: pairs of one picture are alike, so pictures
are what is drawn again (with replacement), not pairs. Everything is summed up by picture once; a draw is a weighted
sum. The draws are the same for every model, so that differences between two models are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partition import QINDEX_BANDS, Partition
from train.measures.candidates import Keep
from train.measures.decision import Decision
from train.measures.metrics import CALIBRATION_BINS

DRAWS = 1000
PAIRED = ("log_loss", "macro_f1", "decided_macro_f1", "mean_set")
KEPT = 0.98
_CLASSES = len(Partition)
_THRESHOLDS = np.concatenate([[0.0], np.geomspace(1e-5, 1.0, 600)])


@dataclass(frozen=True)
class Answers:
    """What a model says of labelled pairs.

    Attributes:
        probability: float [M, 10], rows sum to 1.
        qindex: 0-255, integer [M].
        label: 0-9, integer [M].
        picture: number of each pair's picture, integer [M].
    """

    probability: NDArray[np.floating]
    qindex: NDArray[np.integer]
    label: NDArray[np.integer]
    picture: NDArray[np.integer]


def figures(answers: Answers, keep: Keep, decision: Decision) -> dict[str, dict[str, Any]]:
    """Every figure, with its interval.

    Args:
        answers: on the pairs to measure on.
        keep, decision: thresholds and rule, fitted on other pairs.

    Returns:
        By name {value, low, high}, those of PAIRED with all draws: log_loss (nats), macro_f1, decided_macro_f1,
        accuracy, mean_set (types, at the threshold that keeps exactly 98 % of these very pairs), kept and mean_set_at
        (at keep's threshold for 98 %), ece (all pairs), and ece_<low>-<high> by qindex band.
    """
    sums = _sums(answers, keep, decision)
    count = len(sums["pairs"])
    rng = np.random.default_rng(0)
    weights = np.concatenate([np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), DRAWS)])
    drawn = _judge({name: np.tensordot(weights, part, 1) for name, part in sums.items()})
    result: dict[str, dict[str, Any]] = {}
    for name, values in drawn.items():
        # A draw may hold no pair of a band.
        low, high = np.nanquantile(values[1:], (0.025, 0.975))
        result[name] = {"value": float(values[0]), "low": float(low), "high": float(high)}
        if name in PAIRED:
            result[name]["draws"] = [round(float(v), 5) for v in values[1:]]
    return result


def difference(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """One figure of a model minus that of another, both from `figures` on the same pairs: value, low, high."""
    low, high = np.quantile(np.array(a["draws"]) - np.array(b["draws"]), (0.025, 0.975))
    return {"value": a["value"] - b["value"], "low": float(low), "high": float(high)}


def _sums(answers: Answers, keep: Keep, decision: Decision) -> dict[str, NDArray[np.float64]]:
    """What `_judge` needs, one entry for each picture: [P, ...]."""
    probability, label = answers.probability, answers.label.astype(np.int64)
    names, row = np.unique(answers.picture, return_inverse=True)
    count = len(names)

    def total(values: NDArray, places: NDArray[np.integer] | int = 0, size: int = 1) -> NDArray[np.float64]:
        """Sums by picture and place, [P, size]."""
        return np.bincount(row * size + places, values, count * size).reshape(count, size).astype(np.float64)

    def from_above(values: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """By picture, how many values are at least each threshold."""
        places = rows * len(_THRESHOLDS) + np.searchsorted(_THRESHOLDS, values, "right") - 1
        counts = np.bincount(places, minlength=count * len(_THRESHOLDS)).reshape(count, -1)
        return np.cumsum(counts[:, ::-1], 1)[:, ::-1].astype(np.float64)

    ones = np.ones(len(label))
    true = probability[np.arange(len(label)), label].astype(np.float64)
    own = np.where(label == Partition.NONE, 1.0, true)
    others = probability[:, 1:].astype(np.float64)
    threshold = keep.thresholds[f"{KEPT}"]
    top, first = probability.max(1).astype(np.float64), probability.argmax(1)
    bins = np.minimum((top * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    band, bands = np.searchsorted([high for _, high in QINDEX_BANDS], answers.qindex), len(QINDEX_BANDS)
    gap = total((first == label) - top, band * CALIBRATION_BINS + bins, CALIBRATION_BINS * bands)
    return {
        "pairs": total(ones)[:, 0],
        "log_loss": total(-np.log(np.maximum(true, 1e-12)))[:, 0],
        "matrix_argmax": total(ones, label * _CLASSES + first, _CLASSES**2),
        "matrix_decided": total(ones, label * _CLASSES + decision.answer(probability), _CLASSES**2),
        "kept_from": from_above(own, row),
        "size_from": from_above(others.ravel(), row.repeat(_CLASSES - 1)),
        "kept_at": total((own >= threshold).astype(float))[:, 0],
        "size_at": total(1.0 + (others >= threshold).sum(1))[:, 0],
        "gap": gap.reshape(count, bands, CALIBRATION_BINS),
        "band_pairs": total(ones, band, bands),
    }


def _judge(s: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The figures of each draw, float64 [draws], from sums [draws, ...]."""
    pairs = s["pairs"]
    share = s["kept_from"] / pairs[:, None]
    # The highest threshold that still keeps enough.
    last = (share >= KEPT).sum(1) - 1
    made = {
        "log_loss": s["log_loss"] / pairs,
        "macro_f1": _macro_f1(s["matrix_argmax"]),
        "decided_macro_f1": _macro_f1(s["matrix_decided"]),
        "accuracy": s["matrix_argmax"].reshape(-1, _CLASSES, _CLASSES).trace(axis1=1, axis2=2) / pairs,
        "mean_set": 1.0 + s["size_from"][np.arange(len(pairs)), last] / pairs,
        "kept": s["kept_at"] / pairs,
        "mean_set_at": s["size_at"] / pairs,
        "ece": np.abs(s["gap"].sum(1)).sum(1) / pairs,
    }
    with np.errstate(invalid="ignore"):
        for i, (low, high) in enumerate(QINDEX_BANDS):
            made[f"ece_{low}-{high}"] = np.abs(s["gap"][:, i]).sum(1) / s["band_pairs"][:, i]
    return made


def _macro_f1(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """As train.measures.metrics.macro_f1, of each draw."""
    m = matrices.reshape(-1, _CLASSES, _CLASSES)
    total = m.sum(1) + m.sum(2)
    hits = m.diagonal(axis1=1, axis2=2)
    return np.where(total > 0, 2 * hits / np.maximum(total, 1e-9), 0.0).mean(1)
