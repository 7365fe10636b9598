"""The shipped models: whole, within their cost, provably the run that lies beside them, and what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from bundle import open_bundle
from infer.certificate import Certificate
from infer.open import open_session
from infer.session import SessionOptions
from infer.verify import read_reference
from tests.helpers import REPO
from train.checkpoint import open_run
from train.measures.decision import recorded_decision

MODELS = REPO / "models"
LARGEST = {"tiny": 2.5e6, "compact": 12e6, "accurate": 60e6, "accurate-context": 60e6}
"""FLOP a block, once compiled."""
PRECISIONS = {"tiny": ["fp16", "fp32"], "compact": ["fp16", "fp32"], "accurate": ["fp32"], "accurate-context": ["fp32"]}
MEGABYTES = 40


@pytest.fixture(scope="module", params=LARGEST)
def shipped(request):
    """A name, and the opened bundle."""
    return request.param, open_bundle(MODELS / request.param)


def test_every_file_costs_what_it_may(shipped):
    name, bundle = shipped
    files = [e for e in bundle.manifest.files.values() if e.kind == "onnx"]
    assert sorted(e.precision for e in files) == PRECISIONS[name]
    for entry in files:
        assert 2 * list(entry.cost.values())[-1]["multiply_adds"] <= LARGEST[name]
    assert sum(path.stat().st_size for path in bundle.root.iterdir()) < MEGABYTES * 1e6


def test_parity_is_proven_on_the_whole_sample(shipped):
    _, bundle = shipped
    for file, entry in bundle.manifest.files.items():
        if entry.kind == "onnx":
            for parity in entry.parity.values():
                certificate = Certificate.from_json(parity)
                assert certificate.problems() == [] and certificate.tolerance == entry.precision, file


def test_the_run_lies_beside_its_bundle(shipped):
    """So it can be exported again in other forms; its weights are the bundle's."""
    name, bundle = shipped
    run = open_run(bundle.root)
    assert run.sha256 == bundle.manifest.run_sha256 == bundle.manifest.files["model.safetensors"].sha256
    trunk, _, context = name.partition("-")
    config = run.model.config
    assert (config.trunk, config.form.border, config.temperature) == (trunk, 8 if context else 0, "qindex")
    assert run.info["evaluation"] == bundle.manifest.metrics
    assert len(run.info["calib"]) == 36


def test_thresholds_and_rule_were_fitted_on_pictures_set_aside(shipped):
    _, bundle = shipped
    assert bundle.manifest.metrics["keep_fitted_on"] == "calib"
    rule = recorded_decision(bundle.manifest.metrics)
    assert rule is not None and rule.fitted_on == "calib"
    assert 0 < bundle.manifest.threshold("0.99") < bundle.manifest.threshold("0.95") < 0.1


def test_it_computes_its_reference(shipped):
    _, bundle = shipped
    blocks, qindex, logits = (a[:256] for a in read_reference(bundle))
    session = open_session(bundle, "onnxruntime-cpu", SessionOptions(8))
    assert np.abs(session.predict(blocks, qindex).logits - logits).max() < 1e-3
