"""Metrics from probabilities and labels; numpy only, so that bundles are judged by the same code as runs.

Accuracy never stands alone: always answering NONE is right for most blocks, and its figures stand beside ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from description import NO_SAY, Level
from partition import COVERED, Partition

CALIBRATION_BINS = 15


def confusion(label: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Counts int64 [classes, classes], rows the true class, columns the predicted one."""
    flat = label.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def f1_scores(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class, float64 [classes], 0-1; NaN where a class is neither there nor predicted."""
    hits, total = np.diag(matrix).astype(float), matrix.sum(0) + matrix.sum(1)
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)


def macro_f1(matrix: NDArray[np.int64]) -> float:
    """Mean F1 over all classes, 0-1; a class that is neither there nor predicted counts as 0."""
    return float(np.nan_to_num(f1_scores(matrix)).mean())


def balanced_accuracy(matrix: NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur, 0-1."""
    support = matrix.sum(1)
    return float((np.diag(matrix)[support > 0] / support[support > 0]).mean()) if support.any() else 0.0


def head_metrics(logits: NDArray[np.floating], label: NDArray[np.integer], level: Level) -> dict[str, dict[str, float]]:
    """How each head of a level does on the nodes it has a say in; COVERED counts as NONE.

    Args:
        logits: float [K, level.logits].
        label: partition id or COVERED, integer [K].
        level: whose nodes they are.

    Returns:
        By head: macro_f1, balanced_accuracy, accuracy (0-1), log_loss (nats), count.
    """
    plain = as_none(label)
    result = {}
    for head, part in level.slices.items():
        target = level.targets[head][plain]
        keep = target != NO_SAY
        z, t = logits[keep, part].astype(np.float64), target[keep]
        matrix = confusion(t, z.argmax(1), len(level.head(head).classes))
        result[head] = {
            "macro_f1": macro_f1(matrix),
            "balanced_accuracy": balanced_accuracy(matrix),
            "accuracy": float(np.trace(matrix) / max(len(t), 1)),
            "log_loss": _log_loss(z, t),
            "count": len(t),
        }
    return result


def _log_loss(z: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    if not len(target):
        return 0.0
    shifted = z - z.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(target)), target]).mean())


def as_none(label: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels with COVERED as NONE."""
    return np.where(label == COVERED, Partition.NONE, label)


def partition_metrics(probability: NDArray[np.floating], label: NDArray[np.integer], level: Level) -> dict[str, Any]:
    """Metrics over all types of a level, of one set of nodes.

    Args:
        probability: float [K, types].
        label: column of `probability` of each node's type, integer [K]; K at least 1.
        level: whose types they are.

    Returns:
        macro_f1, balanced_accuracy, accuracy, always_none_accuracy, always_none_macro_f1, top2_recall, top3_recall,
        expected_calibration_error (all 0-1), log_loss (nats), count, f1 (by class), confusion [types][types].
    """
    types = len(level.types)
    matrix = confusion(label, probability.argmax(1), types)
    order = np.argsort(-probability, axis=1, kind="stable")
    rank = (order == np.asarray(label)[:, None]).argmax(1)
    true = probability[np.arange(len(label)), label].astype(np.float64)
    none = float((label == level.columns[Partition.NONE]).mean())
    return {
        "macro_f1": macro_f1(matrix),
        "balanced_accuracy": balanced_accuracy(matrix),
        "accuracy": float((rank == 0).mean()),
        "always_none_accuracy": none,
        "always_none_macro_f1": 2 * none / (1 + none) / types,
        "top2_recall": float((rank < 2).mean()),
        "top3_recall": float((rank < 3).mean()),
        "log_loss": float(-np.log(np.maximum(true, 1e-12)).mean()),
        "expected_calibration_error": calibration_error(probability, label),
        "count": len(label),
        "f1": dict(zip((p.name for p in level.types), np.nan_to_num(f1_scores(matrix)).tolist(), strict=True)),
        "confusion": matrix.tolist(),
    }


def calibration_error(probability: NDArray[np.floating], label: NDArray[np.integer]) -> float:
    """Expected calibration error of the top class over 15 equal bins (Guo et al., ICML 2017), 0-1."""
    top = probability.max(1).astype(np.float64)
    right = (probability.argmax(1) == label).astype(np.float64)
    bins = np.minimum((top * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(bins, right - top, CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(label))
