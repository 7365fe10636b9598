"""Blobs as files of a bundle: certified by the library that runs them, refused where it runs nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import export.c.write
import infer.sessions.c_session
from bundle import open_bundle
from description import BLOCKS, BLOCKS_IN_CONTEXT
from errors import MissingComponentError, ParityError, UsageError
from export.artefacts import blob
from export.plan import ExportTask
from export.run import export_run
from tests.superblocks import SUPERBLOCKS
from train.checkpoint import open_run


def wanted(**changes):
    return ExportTask(Path("run"), Path("bundle"), **{"blob": True} | changes)


@pytest.mark.parametrize(
    ("changes", "task", "error", "message"),
    [
        ({"fold": False}, BLOCKS, UsageError, "needs a folded model"),
        ({"precisions": ("fp16",)}, BLOCKS, UsageError, "in fp32 or int8"),
        ({}, BLOCKS_IN_CONTEXT, MissingComponentError, "8 samples around them"),
        ({}, SUPERBLOCKS, MissingComponentError, "answer 85"),
    ],
)
def test_what_cannot_be_a_blob_is_refused_first(changes, task, error, message):
    with pytest.raises(error, match=message):
        blob.check(wanted(**changes), task)
    blob.check(wanted(**changes, blob=False), task)


def test_which_precisions_become_blobs():
    assert blob.precisions(wanted(precisions=("fp16", "int8", "fp32"))) == ("int8", "fp32")


def test_a_program_that_does_not_agree_becomes_no_blob(run_dir, monkeypatch):
    """A random model does not keep int8's row of the tolerances."""
    monkeypatch.setattr(export.c.write, "CHECKED", 256)
    monkeypatch.setattr(export.c.write, "_calibration", lambda: [(np.zeros((1, 256), np.float32), np.zeros(1, int))])
    with pytest.raises(ParityError, match="the C library's int8 program"):
        export.c.write.make_blob(open_run(run_dir).model, "int8", {}, "ab" * 32, print)


@pytest.mark.usefixtures("small_reference")
def test_without_the_library_the_certificate_says_so(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(export.c.write, "CHECKED", 256)

    def no_compiler(_):
        raise MissingComponentError("no C compiler is there")

    monkeypatch.setattr(infer.sessions.c_session, "ensure_library", no_compiler)
    heard = []
    export_run(ExportTask(run_dir, tmp_path / "b", forms=("uint8",), blob=True), heard.append)
    entry = open_bundle(tmp_path / "b").manifest.files["model.fp32.av1part"]
    assert (entry.kind, entry.precision, entry.input) == ("blob", "fp32", "")
    assert set(entry.parity) == {"8 bit", "10 bit", "12 bit", "reference"}
    assert all(c == {"not run": "no C compiler is there"} for c in entry.parity.values())
    assert "parity of model.fp32.av1part not run: no C compiler is there" in heard
