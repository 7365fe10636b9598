"""train/measures/metrics.py against slow twins written pair by pair, and against examples worked out by hand."""

import math

import numpy as np
import pytest

from data.dataset import class_counts
from description import BLOCKS, chain_rule
from tests.helpers import COVERED
from train.measures.candidates import Keep
from train.measures.judgement import evaluate_level
from train.measures.metrics import (
    balanced_accuracy,
    calibration_error,
    confusion,
    f1_scores,
    head_metrics,
    macro_f1,
    partition_metrics,
)

LEVEL = BLOCKS.levels[0]

# class of each partition in each head, NONE to VERT_4; where the head's logits start, and how many there are
HEAD_TARGETS = {
    "stage1": ([0, 1, 1, 1, 1, 1, 1, 1, 1, 1], 0, 2),
    "macro": ([-1, 1, 1, 0, 2, 2, 2, 2, 3, 3], 2, 4),
    "rect": ([-1, 0, 1, -1, -1, -1, -1, -1, -1, -1], 6, 2),
    "ab": ([-1, -1, -1, -1, 0, 1, 2, 3, -1, -1], 8, 4),
    "four": ([-1, -1, -1, -1, -1, -1, -1, -1, 0, 1], 12, 2),
}


def slow_f1(truth, guess, classes):
    scores = []
    for c in range(classes):
        tp = sum(t == c and g == c for t, g in zip(truth, guess, strict=True))
        fp = sum(t != c and g == c for t, g in zip(truth, guess, strict=True))
        fn = sum(t == c and g != c for t, g in zip(truth, guess, strict=True))
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else 0.0
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return scores


def slow_balanced_accuracy(truth, guess):
    recalls = []
    for c in set(truth):
        of_class = [g for t, g in zip(truth, guess, strict=True) if t == c]
        recalls.append(sum(g == c for g in of_class) / len(of_class))
    return sum(recalls) / len(recalls)


def slow_calibration_error(probability, truth, bins=15):
    groups = [[] for _ in range(bins)]
    for row, t in zip(probability, truth, strict=True):
        top = max(row)
        groups[min(int(top * bins), bins - 1)].append((top, list(row).index(top) == t))
    error = 0.0
    for group in groups:
        if group:
            confidence, right = (sum(v) / len(group) for v in zip(*group, strict=True))
            error += len(group) / len(truth) * abs(right - confidence)
    return error


def slow_top(probability, truth, k):
    return np.mean(
        [t in sorted(range(10), key=lambda c: -row[c])[:k] for row, t in zip(probability, truth, strict=True)]
    )


def random_case(seed, count=400):
    rng = np.random.default_rng(seed)
    label = rng.choice(10, count, p=[0.5, 0.1, 0.1, 0.15, 0.05, 0.05, 0.02, 0.02, 0.01, 0.0]).astype(np.uint8)
    probability = rng.dirichlet(np.full(10, 0.4), count)
    return probability, label


def test_f1_of_a_hand_made_example():
    """Ten pairs: class 0 has TP 3, FP 1, FN 2; class 1 has TP 2, FP 2, FN 1; class 2 has TP 1, FP 1, FN 1."""
    truth = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    guess = np.array([0, 0, 0, 1, 2, 1, 1, 0, 2, 1])
    matrix = confusion(truth, guess, 3)
    assert matrix.tolist() == [[3, 1, 1], [1, 2, 0], [0, 1, 1]]
    assert np.allclose(f1_scores(matrix), [6 / 9, 4 / 7, 2 / 4])
    assert math.isclose(macro_f1(matrix), (6 / 9 + 4 / 7 + 1 / 2) / 3)
    assert math.isclose(balanced_accuracy(matrix), (3 / 5 + 2 / 3 + 1 / 2) / 3)


def test_absent_classes():
    """Absent and never predicted: F1 counts as 0 in the mean, recall is left out of the balanced accuracy."""
    matrix = confusion(np.array([0, 0, 1]), np.array([0, 0, 1]), 4)
    assert np.isnan(f1_scores(matrix)[2:]).all()
    assert macro_f1(matrix) == 0.5 and balanced_accuracy(matrix) == 1.0
    assert balanced_accuracy(np.zeros((3, 3), np.int64)) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_partition_metrics_are_the_slow_twins(seed):
    probability, label = random_case(seed)
    found, guess = partition_metrics(probability, label, LEVEL), probability.argmax(1).tolist()
    truth = label.tolist()
    assert math.isclose(found["macro_f1"], np.mean(slow_f1(truth, guess, 10)))
    assert np.allclose(list(found["f1"].values()), slow_f1(truth, guess, 10))
    assert math.isclose(found["balanced_accuracy"], slow_balanced_accuracy(truth, guess))
    assert math.isclose(found["accuracy"], slow_top(probability, truth, 1))
    assert math.isclose(found["top2_recall"], slow_top(probability, truth, 2))
    assert math.isclose(found["top3_recall"], slow_top(probability, truth, 3))
    assert math.isclose(found["log_loss"], -np.mean([math.log(p[t]) for p, t in zip(probability, truth, strict=True)]))
    assert math.isclose(found["expected_calibration_error"], slow_calibration_error(probability, truth))
    assert math.isclose(found["always_none_accuracy"], np.mean([t == 0 for t in truth]))
    assert math.isclose(found["always_none_macro_f1"], np.mean(slow_f1(truth, [0] * len(truth), 10)))
    assert found["count"] == len(truth)
    assert np.sum(found["confusion"], axis=1).tolist() == class_counts(label).tolist(), (
        "class supports are label counts"
    )
    assert np.sum(found["confusion"], axis=0).tolist() == np.bincount(guess, minlength=10).tolist()


def test_perfect_predictions():
    label = np.repeat(np.arange(10), 3).astype(np.uint8)
    found = partition_metrics(np.eye(10)[label], label, LEVEL)
    for key in ("macro_f1", "balanced_accuracy", "accuracy", "top2_recall", "top3_recall"):
        assert found[key] == 1.0, key
    assert found["log_loss"] == 0.0 and found["expected_calibration_error"] == 0.0
    assert found["always_none_accuracy"] == 0.1


def test_always_none_scores_exactly_its_own_line():
    _, label = random_case(9)
    found = partition_metrics(np.eye(10)[np.zeros(len(label), int)], label, LEVEL)
    assert found["accuracy"] == found["always_none_accuracy"] == (label == 0).mean()
    assert math.isclose(found["macro_f1"], found["always_none_macro_f1"])
    assert math.isclose(found["balanced_accuracy"], 1 / len(np.unique(label)))
    assert np.isfinite(found["log_loss"])


def test_always_none_without_a_single_none():
    found = partition_metrics(np.eye(10)[[1, 2]], np.array([1, 2], np.uint8), LEVEL)
    assert found["always_none_accuracy"] == found["always_none_macro_f1"] == 0.0


def test_calibration_error_by_hand():
    """Ten at 0.95 of which nine are right, ten at 0.55 of which none is: (0.05 x 10 + 0.55 x 10) / 20."""
    top = np.repeat([0.95, 0.55], 10)
    probability = np.stack([top, 1 - top], 1)
    label = np.array([0] * 9 + [1] + [1] * 10)
    assert math.isclose(calibration_error(probability, label), 0.3)
    assert calibration_error(np.eye(2)[[0, 1]], np.array([1, 0])) == 1.0


# --- heads ------------------------------------------------------------------------------------------------------------


def labels_with_covered(seed, count=500):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 14)).astype(np.float32)
    label = rng.choice([*range(10), COVERED], count).astype(np.uint8)
    return logits, rng.integers(0, 256, count), label


@pytest.mark.parametrize("head", HEAD_TARGETS)
def test_head_metrics_are_the_slow_twins(head):
    logits, _, label = labels_with_covered(2)
    targets, start, width = HEAD_TARGETS[head]
    truth, guess, losses = [], [], []
    for z, partition in zip(logits.astype(float), label, strict=True):
        target = targets[0 if partition == COVERED else partition]
        if target >= 0:
            own = z[start : start + width]
            truth.append(target)
            guess.append(int(own.argmax()))
            losses.append(-math.log(math.exp(own[target]) / sum(math.exp(v) for v in own)))
    found = head_metrics(logits, label, LEVEL)[head]
    assert found["count"] == len(truth)
    assert math.isclose(found["macro_f1"], np.mean(slow_f1(truth, guess, width)))
    assert math.isclose(found["balanced_accuracy"], slow_balanced_accuracy(truth, guess))
    assert math.isclose(found["accuracy"], np.mean(np.equal(truth, guess)))
    assert math.isclose(found["log_loss"], np.mean(losses), rel_tol=1e-9)


def test_a_head_without_pairs_scores_nothing_and_breaks_nothing():
    found = head_metrics(np.zeros((3, 14), np.float32), np.zeros(3, np.uint8), LEVEL)
    assert found["four"] == {"macro_f1": 0, "balanced_accuracy": 0, "accuracy": 0, "log_loss": 0, "count": 0}
    assert found["stage1"]["count"] == 3


def test_log_loss_stays_finite_at_extreme_logits():
    logits = np.full((2, 14), -1e5, np.float32)
    logits[:, 0] = 1e5
    found = head_metrics(logits, np.array([0, 1], np.uint8), LEVEL)
    assert math.isclose(found["stage1"]["log_loss"], 1e5, rel_tol=1e-6)


# --- the whole report -------------------------------------------------------------------------------------------------


def test_covered_counts_as_none_in_all_and_is_left_out_of_nodes():
    logits, qindex, label = labels_with_covered(3)
    found, probability = evaluate_level(logits, qindex, label, LEVEL), chain_rule(logits, LEVEL)
    as_none = np.where(label == COVERED, 0, label)
    nodes = label != COVERED
    assert found["all"] == partition_metrics(probability, as_none, LEVEL)
    assert found["nodes"] == partition_metrics(probability[nodes], label[nodes], LEVEL)
    assert found["all"]["count"] == 500 and found["nodes"]["count"] == nodes.sum() < 500
    assert found["all"]["always_none_accuracy"] > found["nodes"]["always_none_accuracy"]


def test_qindex_bands_partition_the_pairs_and_are_judged_alone():
    logits, qindex, label = labels_with_covered(4, 2000)
    qindex[:8] = [0, 99, 100, 147, 148, 195, 196, 255]
    report = evaluate_level(logits, qindex, label, LEVEL)
    found = report["by_qindex"]
    assert sum(band["all"]["count"] for band in found.values()) == 2000
    covered_values = []
    for name, band in found.items():
        low, high = map(int, name.split("-"))
        covered_values += range(low, high + 1)
        keep = (qindex >= low) & (qindex <= high)
        alone = evaluate_level(logits[keep], qindex[keep], label[keep], LEVEL, Keep(report["keep"], "val"))
        assert {k: alone[k] for k in ("heads", "all", "nodes", "candidates")} == band
    assert covered_values == list(range(256))


def test_bands_without_pairs_are_left_out():
    logits, _, label = labels_with_covered(5)
    assert list(evaluate_level(logits, np.full(500, 128), label, LEVEL)["by_qindex"]) == ["100-147"]


def test_a_set_of_covered_positions_alone_has_no_nodes():
    logits, qindex, _ = labels_with_covered(6)
    found = evaluate_level(logits, qindex, np.full(500, COVERED, np.uint8), LEVEL)
    assert "nodes" not in found and found["all"]["always_none_accuracy"] == 1.0
