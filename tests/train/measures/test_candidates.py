"""candidates.py against slow twins written pair by pair, on what a trained-like model says of real blocks."""

import json
import math

import numpy as np
import pytest

from bundle import Manifest, open_bundle
from description import BLOCKS, chain_rule
from errors import UsageError
from evaluate.report import evaluate_artefact, table
from partition import candidate_sets
from tests import helpers
from train.curves import draw_candidates
from train.measures.candidates import (
    CURVE_THRESHOLDS,
    SHARES,
    Keep,
    candidate_report,
    fit_keep,
    operating_point,
    recorded_keep,
)
from train.measures.judgement import evaluate_level
from train.measures.metrics import as_none

LEVEL = BLOCKS.levels[0]


@pytest.fixture(scope="module")
def said(real_blocks, run_dir):
    """Logits of a run, qindex and labels of 2,048 real blocks."""
    from infer.sessions.torch_session import reference_prediction
    from train.checkpoint import open_run

    blocks, qindex, label = real_blocks
    return reference_prediction(open_run(run_dir).model, blocks, qindex, 8).logits, qindex, label


def slow_point(probability, label, threshold):
    """Kept, mean size and share of single sets, pair by pair."""
    sizes, kept = [], 0
    for row, true in zip(probability.tolist(), label.tolist(), strict=True):
        chosen = {0} | {c for c, p in enumerate(row) if p >= threshold}
        sizes.append(len(chosen))
        kept += true in chosen
    return kept / len(label), sum(sizes) / len(sizes), sizes.count(1) / len(sizes)


def test_operating_points_are_the_slow_twins(said):
    logits, _, label = said
    probability, truth = chain_rule(logits, LEVEL), as_none(label)
    for t in (0.0, 1e-3, 0.02, 0.1, 0.5, 1.0):
        found = operating_point(probability, truth, t)
        assert np.allclose([found["kept"], found["mean_set"], found["single"]], slow_point(probability, truth, t))
    everything = operating_point(probability, truth, 0.0)
    assert everything["kept"] == 1 and everything["mean_set"] == 10 and everything["single"] == 0


def test_a_fitted_threshold_keeps_its_share_and_the_next_higher_one_does_not(said):
    logits, _, label = said
    probability, truth = chain_rule(logits, LEVEL), as_none(label)
    keep = fit_keep(probability, truth, "val")
    assert tuple(keep.thresholds) == SHARES and list(keep.thresholds.values()) == sorted(keep.thresholds.values())
    for share, t in keep.thresholds.items():
        assert operating_point(probability, truth, t)["kept"] >= float(share)
        assert operating_point(probability, truth, t * 1.002)["kept"] < float(share) + 1 / len(truth)
        assert t == float(f"{t:.4g}"), "a number to write down"


@pytest.mark.parametrize(
    ("label", "expected"),
    [([0] * 100, 1.0), ([1] * 100, 0.1), ([0] * 98 + [3] * 2, 1.0), ([0] * 97 + [3] * 3, 0.1)],
    ids=["all NONE", "all HORZ", "two of a hundred may be lost", "three may not"],
)
def test_thresholds_by_hand(label, expected):
    probability = np.full((100, 10), 0.1, np.float32)
    assert fit_keep(probability, np.array(label), "x").thresholds["0.98"] == pytest.approx(expected, rel=1e-3)


def test_a_type_that_is_never_expected_brings_the_threshold_to_zero():
    probability = np.eye(10)[[1] * 20]
    assert fit_keep(probability, np.full(20, 2), "x").thresholds == dict.fromkeys(SHARES, 0.0)


def test_none_is_in_every_set_and_the_argument_is_left_alone():
    probability = np.full((3, 10), 0.1)
    sets = candidate_sets(probability, 0.2)
    assert sets[:, 0].all() and not sets[:, 1:].any()
    assert (probability == 0.1).all()


def test_the_curve_falls_as_thresholds_rise(said):
    logits, _, label = said
    curve = candidate_report(chain_rule(logits, LEVEL), as_none(label), Keep({}, "x"))["curve"]
    assert tuple(curve["threshold"]) == CURVE_THRESHOLDS
    for key in ("kept", "mean_set"):
        assert all(a >= b for a, b in zip(curve[key], curve[key][1:], strict=False)), key
        assert curve[key][0] > curve[key][-1], key


def test_bands_are_judged_at_the_thresholds_of_the_whole(said):
    logits, qindex, label = said
    report = evaluate_level(logits, qindex, label, LEVEL)
    assert report["keep_fitted_on"] == "val"
    for band in report["by_qindex"].values():
        points = band["candidates"]["points"]
        assert {share: point["threshold"] for share, point in points.items()} == report["keep"]
    weights = [band["all"]["count"] for band in report["by_qindex"].values()]
    kept = [band["candidates"]["points"]["0.98"]["kept"] for band in report["by_qindex"].values()]
    assert math.isclose(np.average(kept, weights=weights), report["candidates"]["points"]["0.98"]["kept"])


def test_thresholds_of_a_run_are_judged_not_fitted_again(run_dir, tiny_dataset, tmp_path):
    run = helpers.copy_of(run_dir, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    info["evaluation"] |= {"keep": {"0.98": 0.0123}, "keep_fitted_on": "calib"}
    helpers.rewrite(run / "run.json", json.dumps(info))
    report = evaluate_artefact(run, tiny_dataset, "val", lambda *_: None, lambda *_: None)
    assert report["keep"] == {"0.98": 0.0123} and report["keep_fitted_on"] == "calib"
    assert "t fitted on calib" in table(report) and "0.0123" in table(report)


def test_an_artefact_without_thresholds_gets_them_from_the_split_and_says_so(run_dir, tiny_dataset):
    lines = []
    report = evaluate_artefact(run_dir, tiny_dataset, "train", lambda *_: None, lines.append)
    assert report["keep_fitted_on"] == "train" and any("no candidate thresholds" in line for line in lines)
    assert recorded_keep({}) is None


def test_the_manifest_gives_thresholds_by_share(bundle_dir):
    manifest = open_bundle(bundle_dir).manifest
    with pytest.raises(UsageError, match=r"no threshold to keep 0\.98"):
        manifest.threshold("0.98")
    manifest.metrics["keep"] = {"0.98": 0.02}
    assert Manifest.from_json(manifest.to_json()).threshold("0.98") == 0.02
    with pytest.raises(UsageError) as error:
        manifest.threshold("0.5")
    assert "0.98" in error.value.hint


@pytest.mark.parametrize("keep", [[], {"0.98": "x"}, {"0.98": 2}, {"0.98": None}, {"0.98": float("nan")}])
def test_malformed_thresholds_are_refused(bundle_dir, keep):
    manifest = open_bundle(bundle_dir).manifest
    manifest.metrics["keep"] = keep
    with pytest.raises(ValueError, match="candidate sets"):
        Manifest.from_json(manifest.to_json())


def test_the_figure_has_a_line_for_the_whole_and_each_band(said):
    report = evaluate_level(*said, LEVEL)
    (axis,) = draw_candidates(report, "title").axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["all qindex", *report["by_qindex"]]
