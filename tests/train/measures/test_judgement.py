"""train/measures/judgement.py and rows.py over a task of several levels: each level alone, nodes outside left out."""

import numpy as np
import pytest

from description import BLOCKS, InputForm, Task, chain_rule, level_of
from partition import COVERED, OUTSIDE
from train.measures.candidates import Keep
from train.measures.judgement import Fits, classes_of, evaluate_level, evaluate_logits, level_reports, recorded_fits
from train.measures.rows import level_rows

SUPERBLOCKS = Task("superblocks", InputForm(64), tuple(map(level_of, (64, 32, 16, 8))))


@pytest.fixture(scope="module")
def said():
    """Logits, qindex and labels of 40 superblocks, some of whose nodes are covered or outside."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (40, SUPERBLOCKS.nodes)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = COVERED
    label[rng.random(label.shape) < 0.1] = OUTSIDE
    return rng.normal(size=(40, SUPERBLOCKS.logits)), rng.integers(0, 256, 40), label


def test_rows_of_a_level_are_its_nodes_pair_after_pair(said):
    logits, _, label = said
    at, start = 0, 0
    for rows in level_rows(logits, label, SUPERBLOCKS):
        nodes, width = SUPERBLOCKS.nodes_of(rows.level), rows.level.logits
        expected = [
            (m, label[m, at + i], logits[m, start + i * width : start + (i + 1) * width])
            for m in range(40)
            for i in range(nodes)
            if label[m, at + i] != OUTSIDE
        ]
        assert rows.pair.tolist() == [m for m, _, _ in expected] and rows.label.tolist() == [k for _, k, _ in expected]
        assert np.array_equal(rows.logits, np.array([z for _, _, z in expected]))
        at, start = at + nodes, start + nodes * width
    assert (at, start) == (SUPERBLOCKS.nodes, SUPERBLOCKS.logits)


def test_each_level_is_judged_as_if_it_stood_alone(said):
    logits, qindex, label = said
    report = evaluate_logits(logits, qindex, label, SUPERBLOCKS)
    assert list(report["levels"]) == ["64", "32", "16", "8"]
    for rows in level_rows(logits, label, SUPERBLOCKS):
        alone = evaluate_level(rows.logits, qindex[rows.pair], rows.label, rows.level)
        assert report["levels"][str(rows.level.node_size)] == alone
    assert set(report["levels"]["8"]["heads"]) == {"stage1", "macro", "rect"}
    assert len(report["levels"]["8"]["all"]["confusion"]) == 4


def test_what_was_fitted_is_used_level_by_level_and_comes_back(said):
    logits, qindex, label = said
    fits = {32: Fits(Keep({"0.9": 0.25}, "calib"))}
    report = evaluate_logits(logits, qindex, label, SUPERBLOCKS, fits)
    assert report["levels"]["32"]["keep"] == {"0.9": 0.25} and report["levels"]["64"]["keep_fitted_on"] == "val"
    assert recorded_fits(report, SUPERBLOCKS)[32] == fits[32]
    assert set(level_reports(report, SUPERBLOCKS)) == {64, 32, 16, 8}


def test_a_level_without_a_node_inside_a_frame_is_left_out(said):
    logits, qindex, label = said
    without = label.copy()
    without[:, 0] = OUTSIDE
    assert list(evaluate_logits(logits, qindex, without, SUPERBLOCKS)["levels"]) == ["32", "16", "8"]


def test_a_task_of_one_node_has_the_report_of_its_level(said):
    logits, label = said[0][:, :14], np.minimum(said[2][:, :1], 3)
    report = evaluate_logits(logits, said[1], label, BLOCKS)
    assert report == evaluate_level(logits, said[1], label[:, 0], BLOCKS.levels[0])


def test_classes_are_columns_of_probability(said):
    level = level_of(8)
    label = np.array([0, 3, COVERED, 1])
    assert classes_of(label, level).tolist() == [0, 3, 0, 1]
    assert chain_rule(np.zeros((1, level.logits)), level).shape == (1, 4)


@pytest.mark.parametrize(
    "evaluation",
    [
        {"keep": {"0.98": "a lot"}},
        {"keep": [0.5]},
        {"keep": {"0.98": 2.0}},
        {"decision": {"gain": [1.0], "cost": [], "fitted_on": "x"}},
        {"decision": {"gain": ["a"], "cost": [0.0], "fitted_on": "x"}},
        {"decision": {"gain": [float("nan")], "cost": [0.0], "fitted_on": "x"}},
        {"decision": 7},
    ],
)
def test_malformed_records_are_refused(evaluation):
    with pytest.raises(ValueError, match="its"):
        recorded_fits(evaluation, BLOCKS)
