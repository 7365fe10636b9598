"""AOTInductor packages: built and run (slow), and refused where they do not belong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import infer.sessions.package_record
from bundle import BundleFile, open_bundle
from description import BLOCKS
from errors import ArtefactError, ForeignArtefactError, MissingComponentError
from export.artefacts import package
from export.plan import ExportTask
from files import sha256_of
from infer.open import open_session
from infer.parity import compare, judge
from infer.session import SessionOptions
from infer.sessions.package_record import PackageRecord, local_target, torch_release
from infer.verify import verify_bundle
from tests.helpers import copy_of, rewrite

RECORD = PackageRecord("aotinductor", torch_release(), "cpu", local_target("cpu"), "cli.py export --package cpu")

TRUSTED = SessionOptions(run_code=True)


def bundle_with_package(bundle_dir, folder, **changes):
    """A copy of a bundle with a file that the manifest calls a package."""
    root = copy_of(bundle_dir, folder)
    (root / "model.pt2").write_bytes(b"no package")
    record = dataclasses.asdict(dataclasses.replace(RECORD, **changes))
    entry = BundleFile(sha256_of(root / "model.pt2"), "package", "fp32", "uint8", package=record)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["files"]["model.pt2"] = dataclasses.asdict(entry)
    rewrite(root / "manifest.json", json.dumps(manifest))
    return root


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "2.1.0"}, "is for torch 2.1.0"),
        ({"target": "avx7"}, "on avx7"),
        ({"device": "cuda", "target": "sm90"}, "here is torch"),
    ],
)
def test_a_package_of_another_machine_is_refused_with_the_command(bundle_dir, tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr(infer.sessions.package_record.torch.cuda, "is_available", lambda: False)
    bundle = open_bundle(bundle_with_package(bundle_dir, tmp_path / "b", **changes))
    with pytest.raises(ForeignArtefactError, match=words) as error:
        open_session(bundle, "aotinductor", TRUSTED)
    assert RECORD.command in error.value.hint and error.value.exit_code == 6
    checks = verify_bundle(bundle.root, lambda _: None, run_code=True).checks
    [check] = [c for c in checks if c.runtime == "aotinductor"]
    assert check.found is None and words in check.not_run


def test_what_is_no_package_is_refused(bundle_dir, tmp_path):
    bundle = open_bundle(bundle_with_package(bundle_dir, tmp_path / "b"))
    with pytest.raises(ArtefactError, match="PyTorch refuses"):
        open_session(bundle, "aotinductor", TRUSTED)


@pytest.mark.parametrize("lost", ["device", "target", "command"])
def test_a_manifest_that_does_not_say_for_what(bundle_dir, tmp_path, lost):
    root = bundle_with_package(bundle_dir, tmp_path / "b")
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["files"]["model.pt2"]["package"][lost]
    rewrite(root / "manifest.json", json.dumps(manifest))
    with pytest.raises(ArtefactError, match="does not say"):
        open_session(open_bundle(root), "aotinductor", TRUSTED)


@pytest.mark.parametrize("options", [SessionOptions(10), SessionOptions(precision="fp16")])
def test_other_depths_and_precisions_are_missing(bundle_dir, tmp_path, options):
    bundle = open_bundle(bundle_with_package(bundle_dir, tmp_path / "b"))
    with pytest.raises(MissingComponentError, match="holds no"):
        open_session(bundle, "aotinductor", options)


def test_what_cannot_be_built_is_refused_first(monkeypatch):
    def check(device, *precisions):
        package.check(ExportTask(Path("run"), Path("bundle"), precisions=precisions, package=device), BLOCKS)

    check("cpu", "fp32")
    check("none", "int8")
    with pytest.raises(MissingComponentError, match="fp32 only"):
        check("cpu", "fp32", "fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingComponentError, match="needs a CUDA GPU"):
        check("cuda", "fp16")


@pytest.mark.slow
@pytest.mark.parametrize("border", [0, 8])
def test_a_package_is_built_certified_and_run(request, tmp_path, border):
    from export.run import export_run

    names = ("wide_run_dir", "wide_blocks") if border else ("run_dir", "real_blocks")
    run_dir, (blocks, qindex, _) = map(request.getfixturevalue, names)
    manifest = export_run(ExportTask(run_dir, tmp_path / "b", package="cpu"), lambda _: None)
    [name] = [n for n, e in manifest.files.items() if e.kind == "package"]
    assert name == f"model.fp32.{local_target('cpu')}.aotinductor-{torch_release()}.pt2"
    assert set(manifest.files[name].parity) == {"8 bit", "reference"}
    bundle = open_bundle(tmp_path / "b")
    session = open_session(bundle, "aotinductor", TRUSTED)
    expected = open_session(bundle, "torch", SessionOptions()).predict(blocks, qindex)
    for count in (1, 2, 333, 2048):  # the batch is dynamic
        found = session.predict(blocks[:count], qindex[:count])
        assert judge(compare(expected.logits[:count], found.logits, qindex[:count]), "fp32") == []
        np.testing.assert_array_equal(found.partition, found.probability.argmax(1))
    verify_bundle(tmp_path / "b", lambda _: None, run_code=True).raise_failures()
