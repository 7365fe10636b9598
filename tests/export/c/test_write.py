"""`export --c`: the folder it writes builds, and holds the bundle's model; what does not agree is not written."""

from __future__ import annotations

import numpy as np
import pytest

import export.c.write
from bundle import SCHEMA_VERSION, Bundle, BundleFile, Manifest
from errors import MissingComponentError, ParityError
from export.c.write import SOURCES, blob_name, write_c
from infer.sessions.c_library import CModel
from infer.sessions.torch_session import reference_prediction
from partition import PARTITION_NAMES
from tests.export.c.conftest import KEEP
from train.checkpoint import open_run


@pytest.fixture
def bundle(run_dir):
    """As much of a bundle as the C library needs: weights and a manifest."""
    files = {"model.safetensors": BundleFile("", "weights", "fp32")}
    kept, model = {"keep": KEEP}, {"trunk": "compact"}
    return Bundle(run_dir, Manifest(SCHEMA_VERSION, "ab" * 32, model, {}, PARTITION_NAMES, files, kept, {}))


@pytest.fixture
def few_pairs(monkeypatch):
    monkeypatch.setattr(export.c.write, "CHECKED", 256)


def test_the_command_writes_the_bundles_model(cli, bundle, tmp_path, few_pairs, monkeypatch, library, real_blocks):
    monkeypatch.setattr("export.run.export_run", lambda *_: bundle.manifest)
    folders = ("--run", bundle.root, "--output-dir", bundle.root)
    ended = cli("export", *folders, "--fold-bn", "--c", tmp_path / "c")
    assert ended.code == 0, ended.err
    assert "parity of the C library's fp32 program: 256 pairs" in ended.out and f"wrote {tmp_path / 'c'}" in ended.out
    assert {p.name for p in (tmp_path / "c").iterdir()} == {*SOURCES, blob_name("fp32")}
    model = CModel(library, tmp_path / "c" / blob_name("fp32"))
    some = real_blocks[0][:100], real_blocks[1][:100]
    expected = reference_prediction(open_run(bundle.root).model, *some, 8).logits
    assert np.abs(model.predict_blocks(*some)[0] - expected).max() < 1e-4
    assert model.threshold("0.98") == pytest.approx(KEEP["0.98"])


def test_what_does_not_agree_is_not_written(bundle, tmp_path, few_pairs, monkeypatch):
    """A random model does not keep int8's row of the tolerances."""
    monkeypatch.setattr(export.c.write, "_calibration", lambda: [(np.zeros((1, 256), np.float32), np.zeros(1, int))])
    with pytest.raises(ParityError, match="the C library's int8 program"):
        write_c(bundle, tmp_path / "c", ("int8",), print)
    assert not (tmp_path / "c").exists()


BAD_WORDS = {
    "not folded": (("--c", "c"), 2, "--c needs a folded model"),
    "fp16": (("--c", "c", "--fold-bn", "--precision", "fp16"), 2, "--c needs a folded model"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_options(cli, name):
    words, code, message = BAD_WORDS[name]
    ended = cli("export", *words)
    assert ended.code == code and message in ended.err


def test_a_precision_it_has_not(bundle, tmp_path):
    with pytest.raises(MissingComponentError, match="no precision fp16"):
        write_c(bundle, tmp_path, ("fp16",), print)


def test_a_model_that_sees_a_border_is_refused_whoever_asks(wide_run_dir, tmp_path):
    """The command line refuses before it exports (tests/test_bad_input.py); so does the writer itself."""
    files = {"model.safetensors": BundleFile("", "weights", "fp32")}
    model = {"trunk": "compact", "border": 8}
    wide = Bundle(wide_run_dir, Manifest(SCHEMA_VERSION, "ab" * 32, model, {}, PARTITION_NAMES, files, {}, {}))
    with pytest.raises(MissingComponentError, match="sees 8 samples around them"):
        write_c(wide, tmp_path / "c", ("fp32",), print)
    assert not (tmp_path / "c").exists()
