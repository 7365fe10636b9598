"""benchmarks/accuracy.py and picture_bootstrap.py: figures that are those of metrics.py, intervals over pictures,
rows that stay."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import accuracy
from benchmarks.accuracy import class_shares, difference_table, mean_by_block, open_splits, table
from benchmarks.picture_bootstrap import PAIRED, Answers, difference, figures
from data.dataset import load_split, open_dataset
from description import BLOCKS
from errors import InputError
from files import sha256_of
from partition import QINDEX_BANDS
from tests import helpers
from train.measures.candidates import Keep, fit_keep, operating_point
from train.measures.decision import Decision, fit_decision
from train.measures.metrics import as_none, calibration_error, confusion, macro_f1, partition_metrics

KEEP = Keep({"0.98": 0.03}, "calib")
PLAIN = Decision((1.0,) * 10, (0.0,) * 10, "calib")


@pytest.fixture(scope="module")
def answers(sample_val):
    """Probabilities that are right more often in some pictures than in others; qindex, labels and pictures of 6,000
    real pairs."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(sample_val))[:6000])
    label, picture = as_none(sample_val.label[rows, 0]), sample_val.picture[rows]
    knows = (0.2 + 0.2 * (picture % 3))[:, None]
    probability = (1 - knows) * rng.dirichlet(np.full(10, 0.3), len(rows)) + knows * np.eye(10)[label]
    return Answers(probability, sample_val.qindex[rows], label, picture)


def test_the_figures_are_those_of_the_metrics(answers):
    probability, qindex, label = answers.probability, answers.qindex, answers.label
    rule = fit_decision(probability, label, "calib")
    found = {name: f["value"] for name, f in figures(answers, KEEP, rule).items()}
    expected = partition_metrics(probability, label, BLOCKS.levels[0])
    for name in ("log_loss", "macro_f1", "accuracy"):
        assert found[name] == pytest.approx(expected[name]), name
    assert found["ece"] == pytest.approx(expected["expected_calibration_error"], abs=1e-6)
    assert found["decided_macro_f1"] == pytest.approx(macro_f1(confusion(label, rule.answer(probability), 10)))
    point = operating_point(probability, label, 0.03)
    assert (found["kept"], found["mean_set_at"]) == pytest.approx((point["kept"], point["mean_set"]))
    exact = operating_point(probability, label, fit_keep(probability, label, "val").thresholds["0.98"])
    assert found["mean_set"] == pytest.approx(exact["mean_set"], rel=0.02), "thresholds on a grid"
    for low, high in QINDEX_BANDS:
        band = (qindex >= low) & (qindex <= high)
        if band.any():
            expected_error = calibration_error(probability[band], label[band])
            assert found[f"ece_{low}-{high}"] == pytest.approx(expected_error, abs=1e-6)


def test_intervals_are_over_pictures_not_over_pairs(answers):
    """Three times the same pictures say no more; the same pairs as pictures of their own say it with less doubt."""
    alone = figures(answers, KEEP, PLAIN)["log_loss"]
    again = figures(Answers(*(np.concatenate([a] * 3) for a in vars(answers).values())), KEEP, PLAIN)["log_loss"]
    assert again["draws"] == alone["draws"]
    scattered = np.random.default_rng(1).permutation(len(answers.label)) % 500
    finer = figures(replace(answers, picture=scattered), KEEP, PLAIN)["log_loss"]
    assert finer["high"] - finer["low"] < 0.5 * (alone["high"] - alone["low"])
    assert alone["low"] < alone["value"] < alone["high"]


def test_differences_are_paired_over_pictures(answers):
    """A model a little worse on every pair is told apart, however much the pictures differ."""
    worse = figures(replace(answers, probability=0.99 * answers.probability + 0.001), KEEP, PLAIN)["log_loss"]
    found = difference(worse, figures(answers, KEEP, PLAIN)["log_loss"])
    assert 0 < found["low"] <= found["value"] <= found["high"] < 0.02


@pytest.fixture
def few_pictures(monkeypatch):
    """The sample has fewer pictures than the shipped models' dataset, and trees learn from a part of them."""
    monkeypatch.setattr(accuracy, "CALIBRATION_PICTURES", 3)
    monkeypatch.setattr(accuracy, "TREE_PAIRS", 1500)
    monkeypatch.setattr(accuracy, "TREE_ROUNDS", 2)


def test_answers_of_a_block_are_averaged_over_its_qindex(answers):
    block = np.random.default_rng(2).integers(5, 900, len(answers.label))
    found = mean_by_block(answers.probability, block)
    for one in np.unique(block):
        rows = block == one
        expected = np.broadcast_to(answers.probability[rows].mean(0), (rows.sum(), 10))
        np.testing.assert_allclose(found[rows], expected, atol=1e-12)
    same = np.arange(len(block))
    np.testing.assert_allclose(mean_by_block(answers.probability, same), answers.probability, atol=1e-12)


@pytest.mark.usefixtures("few_pictures")
def test_pictures_set_aside_are_not_learnt_from_and_shares_are_shares(sample):
    splits, _ = open_splits(helpers.SAMPLE)
    assert len(splits.calib.pictures) == 3 and not set(splits.calib.pictures) & set(splits.train.pictures)
    assert len(splits.train.pictures) + 3 == len(sample.of_split("train"))
    calib, val = class_shares(splits)
    assert calib.shape == (len(splits.calib), 10) and np.allclose(val.sum(1), 1)
    assert val[splits.val.qindex < 100, 3].mean() > val[splits.val.qindex > 195, 3].mean(), "finer steps split more"


@pytest.mark.usefixtures("few_pictures")
def test_further_pictures_are_learnt_from_alone(tmp_path):
    more = helpers.write_random_dataset(tmp_path, {"a": ("train", 64, 48), "b": ("val", 64, 64)}, qindex=(80, 128))
    (plain, sha256), (found, same) = open_splits(helpers.SAMPLE), open_splits(helpers.SAMPLE, BLOCKS, (more,))
    assert same == sha256 and found.train.pictures == (*plain.train.pictures, "a")
    assert found.calib.pictures == plain.calib.pictures and found.val.pictures == plain.val.pictures
    added = slice(len(plain.train), None)
    expected = load_split(open_dataset(more), "train")
    assert np.array_equal(found.train.label[added], expected.label)
    assert np.array_equal(found.train.blocks[found.train.block[added]], expected.blocks[expected.block])
    with pytest.raises(InputError, match="are the same picture"):
        open_splits(helpers.SAMPLE, BLOCKS, (helpers.SAMPLE,))
    words = ["--dataset-dir", str(helpers.SAMPLE), "--more-train", str(more), "--run", "a=b"]
    assert CliRunner().invoke(accuracy.main, words).exit_code == 2


@pytest.mark.usefixtures("few_pictures")
def test_one_command_judges_peers_and_runs_and_keeps_rows(run_dir, wide_run_dir, tiny_dataset, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    dataset = open_dataset(tiny_dataset)

    asked = []

    def splits(_, task=BLOCKS, more_train=()):
        asked.append(more_train)
        train, val = (load_split(dataset, split, task) for split in ("train", "val"))
        return accuracy.Splits(train, train, val), "hash"

    monkeypatch.setattr(accuracy, "open_splits", splits)
    words = ["--dataset-dir", str(tiny_dataset), "--output", str(tmp_path / "accuracy.json")]
    ended = CliRunner().invoke(accuracy.main, [*words, "--peers"], catch_exceptions=False)
    assert ended.exit_code == 0
    runs = ["--run", f"ours={run_dir}", "--run", f"wide={wide_run_dir}", "--untold", f"ours, not told={run_dir}"]
    ended = CliRunner().invoke(accuracy.main, [*words, *runs, "--device", "cpu"], catch_exceptions=False)
    assert ended.exit_code == 0
    result = json.loads((tmp_path / "accuracy.json").read_text())
    assert list(result["rows"]) == [*accuracy.PEERS, "ours", "ours, not told", "wide"]
    told, untold = (result["rows"][name]["figures"]["log_loss"]["value"] for name in ("ours", "ours, not told"))
    assert told != untold
    assert result["dataset_sha256"] == "hash"
    assert result["rows"]["ours"]["weights_sha256"] == sha256_of(run_dir / "model.safetensors")
    lines = table(result).splitlines()
    assert lines[2].startswith("| always NONE |  | ") and len({line.count("|") for line in lines}) == 1
    assert len(difference_table(result, "ours").splitlines()) == 4 + len(accuracy.PEERS)
    assert all(len(result["rows"]["ours"]["figures"][name]["draws"]) == 1000 for name in PAIRED)
    more = ["--peers", "--more-train", str(tiny_dataset)]
    assert CliRunner().invoke(accuracy.main, [*words, *more], catch_exceptions=False).exit_code == 0
    added = list(json.loads((tmp_path / "accuracy.json").read_text())["rows"])[len(result["rows"]) :]
    assert asked[-1] == (tiny_dataset,) and not any(asked[:-1])
    assert added == [f"{name}, further pictures" for name in list(accuracy.PEERS)[1:]]
