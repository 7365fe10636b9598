"""Judging a run or a bundle on a split, and the table of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from description import BLOCKS
from errors import ArtefactError, InputError
from evaluate.overlay import write_overlay
from evaluate.report import evaluate_artefact, table
from partition import COVERED, PARTITION_NAMES
from tests import helpers
from train.measures.judgement import evaluate_logits


def silent(*_):
    pass


@pytest.mark.parametrize("artefact", ["run_dir", "bundle_dir"])
def test_a_run_and_its_bundle_are_judged_alike(artefact, tiny_dataset, request):
    from data.dataset import load_split, open_dataset
    from infer.sessions.torch_session import reference_prediction
    from train.checkpoint import open_run

    pairs = load_split(open_dataset(tiny_dataset), "val")
    model = open_run(request.getfixturevalue("run_dir")).model
    logits = reference_prediction(model, pairs.blocks[pairs.block], pairs.qindex, 8).logits
    expected = evaluate_logits(logits, pairs.qindex, pairs.label, BLOCKS)
    said = []
    report = evaluate_artefact(request.getfixturevalue(artefact), tiny_dataset, "val", silent, said.append)
    assert report["all"]["confusion"] == expected["all"]["confusion"]
    assert report["nodes"]["count"] == int((pairs.label != COVERED).sum())
    assert report["all"]["log_loss"] == pytest.approx(expected["all"]["log_loss"], abs=1e-4)
    assert any("val" in line for line in said)
    assert any("fp32" in line for line in said)


def test_the_table_shows_always_none_beside_accuracy_and_every_class_and_band(run_dir, tiny_dataset):
    report = evaluate_artefact(run_dir, tiny_dataset, "val", silent, silent)
    lines = table(report).splitlines()
    accuracy = next(i for i, line in enumerate(lines) if line.startswith("accuracy"))
    assert "always NONE: accuracy" in lines[accuracy + 1]
    assert f"{100 * report['all']['always_none_accuracy']:.2f} %" in lines[accuracy + 1]
    f1 = next(line for line in lines if line.startswith("F1 by class"))
    assert all(name in f1 for name in PARTITION_NAMES)
    assert sum(line.startswith(tuple(report["by_qindex"])) for line in lines) == len(report["by_qindex"])


def test_a_set_without_nodes_has_a_dash_where_nodes_would_stand():
    report = evaluate_logits(np.zeros((8, 14)), np.full(8, 100), np.full((8, 1), COVERED), BLOCKS)
    assert "nodes" not in report
    assert table(report).splitlines()[1].split()[-1] == "-"


def test_logits_that_are_no_numbers_are_refused(run_dir, tiny_dataset, tmp_path):
    """Finite weights may be so large that what comes out is not."""
    import torch

    from train.checkpoint import open_run, save_run

    model = open_run(run_dir).model
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.fill_(3e38)
    save_run(tmp_path / "run", model, {})
    with pytest.raises(ArtefactError, match="logits that are not finite"):
        evaluate_artefact(tmp_path / "run", tiny_dataset, "val", silent, silent)


def test_what_is_neither_run_nor_bundle_is_refused(tmp_path, tiny_dataset):
    with pytest.raises(ArtefactError, match="no finished run"):
        evaluate_artefact(tmp_path, tiny_dataset, "val", silent, silent)


def test_the_overlay_of_a_picture_is_a_png_and_says_what_it_shows(run_dir, tmp_path):
    said = []
    target = tmp_path / "deep" / "overlay.png"
    write_overlay(run_dir, helpers.SAMPLE, "skimage_chelsea", target, said.append)
    with Image.open(target) as image:
        assert image.format == "PNG" and image.width > 1000
    assert "qindex 172" in said[-1]


def test_the_overlay_of_an_unknown_picture_names_some_that_exist(run_dir, tmp_path):
    with pytest.raises(InputError) as error:
        write_overlay(run_dir, helpers.SAMPLE, "nothing", tmp_path / "x.png", silent)
    assert "wesaturate_cvo9xd" in error.value.hint
    assert not list(tmp_path.iterdir())
