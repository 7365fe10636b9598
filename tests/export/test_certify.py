"""Certificates: what they are computed on, what they say, and that a wrong artefact gets none."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from data.dataset import load_split
from description import BLOCKS, chain_rule
from errors import ParityError
from export.certify import certify, reference_set, sample_pairs
from infer.certificate import Certificate, ReferenceSet, certificates
from infer.parity_figure import draw_parity
from infer.session import Prediction, SessionInfo
from partition import COVERED, OUTSIDE
from tests.superblocks import SUPERBLOCKS


class Answers:
    """A session that gives prepared logits, batch after batch."""

    info = SessionInfo("stand-in", "1", "cpu", "none", "fp32", "stand-in.onnx")

    def __init__(self, logits):
        self.logits, self.done = logits, 0

    def predict(self, blocks, qindex):
        assert len(blocks) == len(qindex) <= 8160
        part = self.logits[self.done : self.done + len(blocks)]
        self.done += len(blocks)
        return Prediction(part, None, None)


@pytest.fixture(scope="module")
def labelled(sample_val):
    """9,000 labelled pairs with logits drawn at random: two batches."""
    chosen = np.arange(9000)
    logits = np.random.default_rng(0).normal(0, 1, (9000, 14)).astype(np.float32)
    val = sample_val
    return ReferenceSet(val.blocks, val.block[chosen], val.qindex[chosen], logits, val.label[chosen])


def one(session, reference, row):
    """The certificate of the only level."""
    return certificates(session, reference, row)[""]


def test_the_pairs_are_all_of_the_samples(sample):
    pairs = sample_pairs()
    assert len(pairs) == len(pairs.label) == len(pairs.qindex) == 92_716 and COVERED in pairs.label
    rows, names = 0, []
    for split in ("train", "val", "test"):
        part = load_split(sample, split)
        mine = slice(rows, rows + len(part))
        assert np.array_equal(pairs.blocks[pairs.block[mine][::997]], part.blocks[part.block[::997]])
        assert np.array_equal(pairs.label[mine], part.label) and np.array_equal(pairs.qindex[mine], part.qindex)
        found = [pairs.pictures[p] for p in pairs.picture[mine][::997]]
        assert found == [part.pictures[p] for p in part.picture[::997]]
        rows, names = rows + len(part), names + list(part.pictures)
    assert pairs.pictures == tuple(names)


def test_pairs_at_qindex_that_no_encode_used_have_no_labels(trained_like):
    drawn = reference_set(trained_like(trunk="compact"), 64)
    assert drawn.label is None and drawn.logits.shape == (64, 14) and len(set(drawn.qindex)) == 64


def test_a_certificate_says_who_computed_what_where_and_when(labelled):
    logits = labelled.logits.copy()
    logits[8500, 0] += 8  # in the second batch
    made = one(Answers(logits), labelled, "fp16")
    assert made.computed_by == Answers.info and made.tolerance == "fp16"
    assert made.date == datetime.now(UTC).date().isoformat() and made.machine["cpu"] and made.machine["gpu"]
    report = made.report
    assert report.count == 9000 and report.flips == 1
    flip = report.flipped[0]
    assert (flip.pair, flip.block, flip.qindex) == (8500, labelled.block[8500], labelled.qindex[8500])
    assert flip.found == "NONE" != flip.reference
    assert report.log_loss is not None and abs(report.log_loss) > 1e-6 and report.macro_f1 is not None
    assert Certificate.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("values", [None, 3, {}, {"report": 1}, "text"])
def test_what_is_no_certificate_is_refused(values):
    with pytest.raises(ValueError, match="no certificate"):
        Certificate.from_json(values)


def test_an_artefact_that_is_off_gets_none(labelled):
    heard = []
    certify(Answers(labelled.logits + np.float32(0.0009)), labelled, "fp32", heard.append)
    assert len(heard) == 1 and "9,000 pairs" in heard[0]
    with pytest.raises(ParityError, match=r"stand-in\.onnx: max logit difference 1\.1"):
        certify(Answers(labelled.logits + np.float32(0.0011)), labelled, "fp32", heard.append)
    assert len(heard) == 1


def test_int8_is_judged_by_log_loss_and_macro_f1_too(labelled):
    """Surer of NONE where it says NONE: no label flips, but the log loss is another."""
    surer = labelled.logits.copy()
    surer[chain_rule(surer, BLOCKS.levels[0]).argmax(1) == 0, 0] += 3
    with pytest.raises(ParityError, match=r"stand-in\.onnx: log loss changed"):
        certify(Answers(surer), labelled, "int8")
    certify(Answers(surer), dataclasses.replace(labelled, label=None), "int8")


def pixels(png, tmp_path):
    (tmp_path / "drawn.png").write_bytes(png)
    with Image.open(tmp_path / "drawn.png") as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.5])
def test_the_picture_is_drawn_from_the_certificates(labelled, tmp_path, noise):
    logits = labelled.logits + np.random.default_rng(1).normal(0, noise, labelled.logits.shape).astype(np.float32)
    made = one(Answers(logits), labelled, "fp32")
    drawn = pixels(draw_parity({"8 bit": made}), tmp_path)
    report = dataclasses.replace(made.report, histogram={"0.01": 1}, flips=0, flipped=())
    other = pixels(draw_parity({"8 bit": dataclasses.replace(made, report=report)}), tmp_path)
    blue = (np.abs(drawn - (31, 119, 180)).sum(2) < 60).nonzero()
    assert drawn.shape == other.shape and len(blue[0]) > 100
    left, right = blue[1] < drawn.shape[1] / 2, blue[1] >= drawn.shape[1] / 2
    assert left.sum() > 100 and right.sum() > 100
    assert (drawn != other).any(2).sum() > 500, "the figures are what is drawn"


def test_each_level_has_a_certificate_and_one_that_is_off_is_named(sample):
    """Nodes across the frame's edge, whose labels are OUTSIDE, are judged by nobody."""
    val = load_split(sample, "val", SUPERBLOCKS)
    chosen = np.arange(200)
    logits = np.random.default_rng(0).normal(0, 1, (200, SUPERBLOCKS.logits)).astype(np.float32)
    pairs = val.blocks, val.block[chosen], val.qindex[chosen], logits, val.label[chosen], SUPERBLOCKS
    reference, heard = ReferenceSet(*pairs), []
    made = certify(Answers(logits), reference, "fp32", heard.append)
    inside = {size: (val.label[chosen][:, part] != OUTSIDE).sum() for size, part in SUPERBLOCKS.node_slices().items()}
    assert {suffix: c.report.count for suffix, c in made.items()} == {f"_{s}": n for s, n in inside.items()}
    assert len(heard) == 4 and inside[64] < 200
    off = logits.copy()
    off[0, -1] += 0.01  # the last node of 8 of the first superblock
    with pytest.raises(ParityError, match=r"stand-in\.onnx_8: max logit difference"):
        certify(Answers(off), reference, "fp32")
