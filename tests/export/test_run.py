"""A whole export: what a bundle holds, and that no manifest comes without parity."""

from __future__ import annotations

import json
import re
import tomllib

import numpy as np
import onnx
import pytest
import torch

import export.plan
import export.run
from bundle import TOOLKIT_VERSION, open_bundle
from compiler.flops import multiply_adds
from description import BLOCKS, Task
from errors import MissingComponentError, ParityError, UsageError
from export.artefacts.onnx import semantics
from export.certify import reference_set, sample_pairs
from export.engine_options import EngineOptions
from export.plan import ExportTask
from export.run import export_run
from files import sha256_of
from infer.open import open_session
from infer.parity import compare, judge
from infer.session import SessionOptions
from infer.verify import read_reference
from tests.helpers import make_randomised
from train.model import ModelConfig, PartitionModel


def silent(*_):
    pass


def test_a_bundle_holds_what_design_says(bundle_dir, run_dir):
    bundle = open_bundle(bundle_dir)
    kinds = {name: (e.kind, e.precision, e.input) for name, e in bundle.manifest.files.items()}
    assert kinds == {
        "model.safetensors": ("weights", "fp32", ""),
        "reference.npz": ("reference", "", ""),
        "model.fp32.onnx": ("onnx", "fp32", "uint8"),
        "model.fp32.int32.onnx": ("onnx", "fp32", "int32"),
        "model.fp32.onnx.parity.png": ("report", "", ""),
        "model.fp32.int32.onnx.parity.png": ("report", "", ""),
    }
    assert sorted(p.name for p in bundle_dir.iterdir()) == sorted([*kinds, "manifest.json"])
    depths = {name: sorted(e.parity) for name, e in bundle.manifest.files.items() if e.kind == "onnx"}
    assert depths == {
        "model.fp32.onnx": ["8 bit", "reference"],
        "model.fp32.int32.onnx": ["10 bit", "12 bit", "reference"],
    }
    assert "fold" in bundle.manifest.files["model.fp32.onnx"].steps
    assert bundle.manifest.metrics == {"all": {"macro_f1": 0.25}}
    assert bundle.manifest.task == BLOCKS


def test_the_reference_is_the_samples_blocks_over_all_qindex(bundle_dir):
    blocks, qindex, logits = read_reference(open_bundle(bundle_dir))
    known = {b.tobytes() for b in sample_pairs().blocks}
    assert all(b.tobytes() in known for b in blocks)
    assert len(set(qindex.tolist())) == 256
    assert np.isfinite(logits).all() and logits.std() > 0.5


@pytest.mark.usefixtures("small_reference")
def test_a_bundle_of_one_input_form_serves_its_bit_depth_and_says_what_it_lacks(run_dir, tmp_path, real_blocks):
    export_run(ExportTask(run_dir, tmp_path, lower="conv", forms=("uint8",)), silent)
    bundle = open_bundle(tmp_path)
    assert not [name for name in bundle.manifest.files if "int32" in name]
    blocks, qindex, _ = (a[:64] for a in real_blocks)
    assert len(open_session(bundle, "onnxruntime-cpu", SessionOptions(8)).predict(blocks, qindex).partition) == 64
    with pytest.raises(MissingComponentError, match="no fp32 onnx file that takes more than 8 bit"):
        open_session(bundle, "onnxruntime-cpu", SessionOptions(10))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forms": ()}, "uint8 or int32"),
        ({"forms": ("uint8", "float")}, "uint8 or int32"),
        ({"forms": ("int32",), "package": "cpu"}, "8-bit form"),
        ({"forms": ("uint8",), "engines": EngineOptions("tensorrt-rtx", forms=("int32",))}, "an engine of int32"),
    ],
)
def test_input_forms_that_do_not_fit_are_refused_before_any_work(run_dir, tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        export_run(ExportTask(run_dir, tmp_path / "b", **changes), silent)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["model.fp32.onnx", "model.fp32.int32.onnx"])
def test_a_file_says_what_it_is_and_where_it_comes_from(bundle_dir, run_dir, name):
    manifest = open_bundle(bundle_dir).manifest
    props = {p.key: p.value for p in onnx.load(bundle_dir / name).metadata_props}
    assert json.loads(props["semantics"]) == semantics(BLOCKS) and "[N, 16, 16]" in props["semantics"]
    assert Task.from_json(json.loads(props["task"])) == BLOCKS
    assert json.loads(props["keep"]) == {}
    assert json.loads(props["model"]) == manifest.model
    assert props["run_sha256"] == sha256_of(run_dir / "model.safetensors") == manifest.run_sha256
    assert props["weights_sha256"] == manifest.files["model.safetensors"].sha256
    assert props["compile_steps"].split(",") == list(manifest.files[name].steps)
    assert props["toolkit"] == manifest.versions["toolkit"] == TOOLKIT_VERSION


def test_the_version_is_the_projects(repo):
    assert tomllib.loads((repo / "pyproject.toml").read_text())["project"]["version"] == TOOLKIT_VERSION


def test_the_manifest_says_what_each_step_costs(exported):
    root, ended = exported
    files = {name: entry for name, entry in open_bundle(root).manifest.files.items() if entry.kind == "onnx"}
    assert len(files) == 2
    for name, entry in files.items():
        assert list(entry.cost) == ["trained", *entry.steps]
        assert entry.cost[entry.steps[-1]]["multiply_adds"] == multiply_adds(onnx.load(root / name))
        for step, cost in entry.cost.items():
            count, weights = cost["multiply_adds"], cost["weights"]
            assert re.search(rf"^  {step} +{count:,} +{2 * count:,} +{weights:,}$", ended.out, re.MULTILINE)


def test_without_folding_the_batch_norms_stay_and_parity_holds(run_dir, tmp_path, monkeypatch):
    whole = export.run.reference_set
    monkeypatch.setattr(export.run, "reference_set", lambda model, count=None, seed=0: whole(model, 256, seed))
    manifest = export_run(ExportTask(run_dir, tmp_path, fold=False), silent)
    assert manifest.files["model.fp32.onnx"].steps == ()
    nodes = [n.op_type for n in onnx.load(tmp_path / "model.fp32.onnx").graph.node]
    assert nodes.count("BatchNormalization") > 0
    assert all(c["report"]["flips"] == 0 for c in manifest.files["model.fp32.onnx"].parity.values())


def test_a_compiler_that_computes_something_else_leaves_no_manifest(run_dir, tmp_path, monkeypatch):
    whole, honest = export.run.reference_set, export.plan.compile_model

    def wrong(model, *arguments):
        model.heads["macro"][-1].bias.data[1] += 0.01
        return honest(model, *arguments)

    monkeypatch.setattr(export.run, "reference_set", lambda model, count=None, seed=0: whole(model, 256, seed))
    monkeypatch.setattr(export.plan, "compile_model", wrong)
    with pytest.raises(ParityError, match="max logit difference"):
        export_run(ExportTask(run_dir, tmp_path), silent)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_every_labelled_pair_of_the_sample_agrees_with_the_reference(real_blocks, tmp_path, trunk):
    """All 92,716 pairs, BatchNorm randomised: no flip outside margin 1e-3 (and the compiled model within 1e-4)."""
    from train.checkpoint import save_run

    torch.manual_seed(0)
    pairs = (torch.from_numpy(a[:512]) for a in real_blocks[:2])
    model = make_randomised(PartitionModel(ModelConfig(trunk)), 0, *pairs)
    save_run(tmp_path / "run", model, {"evaluation": {}})
    export_run(ExportTask(tmp_path / "run", tmp_path / "bundle"), silent)
    reference = reference_set(model)
    assert len(reference.block) == 92_716
    session = open_session(open_bundle(tmp_path / "bundle"), "onnxruntime-cpu", SessionOptions())
    parts = [
        session.predict(reference.blocks[reference.block[i : i + 8160]], reference.qindex[i : i + 8160]).logits
        for i in range(0, len(reference.block), 8160)
    ]
    report = compare(reference.logits, np.concatenate(parts), reference.qindex)
    assert judge(report, "fp32") == [], report.summary()
    assert report.outside["0.001"] == 1.0
