"""`export --c`: the folder it writes holds the library and the bundle's blobs, and nothing is made anew."""

from __future__ import annotations

import numpy as np
import pytest

import export.c.write
from bundle import open_bundle
from errors import MissingComponentError
from export.c.write import SOURCES, blob_name, write_c
from infer.sessions.c_library import CModel
from infer.sessions.torch_session import reference_prediction
from tests.export.c.conftest import KEEP
from train.checkpoint import open_run, save_run


@pytest.fixture(scope="module")
def kept_run_dir(run_dir, tmp_path_factory):
    """That run with thresholds."""
    root = tmp_path_factory.mktemp("kept")
    save_run(root, open_run(run_dir).model, {"evaluation": {"keep": KEEP}})
    return root


@pytest.mark.usefixtures("small_reference")
def test_the_command_writes_the_bundles_model(cli, kept_run_dir, tmp_path, monkeypatch, library, real_blocks):
    monkeypatch.setattr(export.c.write, "CHECKED", 256)
    folders = ("--run", kept_run_dir, "--output-dir", tmp_path / "b", "--onnx-input", "uint8")
    ended = cli("export", *folders, "--fold-bn", "--c", tmp_path / "c")
    assert ended.code == 0, ended.err
    assert "parity of the C library's fp32 program: 256 pairs" in ended.out and f"wrote {tmp_path / 'c'}" in ended.out
    name = blob_name("fp32")
    assert {p.name for p in (tmp_path / "c").iterdir()} == {*SOURCES, name}
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest.files[name].kind == "blob" and bundle.manifest.files[name].precision == "fp32"
    assert (tmp_path / "c" / name).read_bytes() == bundle.path(name).read_bytes()
    model = CModel(library, tmp_path / "c" / name)
    some = real_blocks[0][:100], real_blocks[1][:100]
    expected = reference_prediction(open_run(kept_run_dir).model, *some, 8).logits
    assert np.abs(model.predict_blocks(*some)[0] - expected).max() < 1e-4
    assert model.threshold("0.98") == pytest.approx(KEEP["0.98"])

    monkeypatch.setattr(export.c.write, "build_model_program", None)  # what is there is taken
    assert write_c(bundle, tmp_path / "again", print)
    assert (tmp_path / "again" / name).read_bytes() == bundle.path(name).read_bytes()


BAD_WORDS = {
    "not folded": (("--c", "c"), 2, "a blob needs a folded model"),
    "fp16": (("--blob", "--fold-bn", "--precision", "fp16"), 2, "a blob needs a folded model"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_options(cli, run_dir, tmp_path, name):
    words, code, message = BAD_WORDS[name]
    ended = cli("export", "--run", run_dir, "--output-dir", tmp_path / "b", *words)
    assert ended.code == code and message in ended.err
    assert not list(tmp_path.iterdir())


def test_a_bundle_without_a_blob_is_refused(bundle_dir, tmp_path):
    with pytest.raises(MissingComponentError, match="holds no blob") as error:
        write_c(open_bundle(bundle_dir), tmp_path / "c", print)
    assert "--blob" in error.value.hint and not (tmp_path / "c").exists()
