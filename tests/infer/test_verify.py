"""infer/verify.py: hashes, then parity; a bundle that changed in any way that matters does not pass."""

import io
import json

import numpy as np
import pytest

import infer.verify
from bundle import open_bundle, sha256_of
from errors import ArtefactError, ParityError
from infer.verify import read_reference, verify_bundle
from tests.helpers import copy_of, rewrite


@pytest.fixture
def bundle(bundle_dir, tmp_path):
    return copy_of(bundle_dir, tmp_path / "bundle")


def edit(root, change):
    values = json.loads((root / "manifest.json").read_text())
    change(values)
    rewrite(root / "manifest.json", json.dumps(values))


def rewrite_reference(root, change):
    """Change the reference and mend its hash."""
    with np.load(root / "reference.npz") as archive:
        arrays = {name: archive[name].copy() for name in archive}
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    rewrite(root / "reference.npz", buffer.getvalue())
    edit(root, lambda v: v["files"]["reference.npz"].update(sha256=sha256_of(root / "reference.npz")))


def test_a_good_bundle_passes_and_every_onnx_file_is_run(bundle):
    heard = []
    result = verify_bundle(bundle, heard.append)
    assert list(result) == ["model.fp32.onnx", "model.fp32.int32.onnx"]
    for entry in result.values():
        assert entry["report"]["count"] == 512 and entry["report"]["agreement"] == 1.0
        assert entry["report"]["max_abs"] <= 1e-3
    assert len(heard) == 3 and "every SHA-256" in heard[0]
    json.dumps(result)


def test_the_reference_is_real_blocks_over_all_qindex(bundle):
    blocks, qindex, logits = read_reference(open_bundle(bundle))
    assert blocks.shape == (512, 16, 16) and logits.shape == (512, 14)
    assert set(qindex) == set(range(256))
    assert logits.std(0).min() > 0.5
    assert np.abs(np.diff(blocks.astype(int), axis=2)).mean() < 40, "neighbours are alike, as in no noise"


@pytest.mark.parametrize("row", [0, 511])
@pytest.mark.parametrize("change", [0.0011, -0.5, np.nan, np.inf])
def test_a_changed_reference_is_no_parity(bundle, row, change):
    def touch(arrays):
        arrays["logits"][row, 5] += change

    rewrite_reference(bundle, touch)
    with pytest.raises(ParityError) as error:
        verify_bundle(bundle, lambda _: None)
    assert error.value.exit_code == 5


@pytest.mark.parametrize("what", ["blocks", "qindex"])
def test_a_changed_input_is_no_parity(bundle, what):
    def touch(arrays):
        arrays[what][:] = 255 - arrays[what]

    rewrite_reference(bundle, touch)
    with pytest.raises(ParityError, match=r"model\.fp32\.onnx: "):
        verify_bundle(bundle, lambda _: None)


def test_an_onnx_file_of_other_weights_is_no_parity(bundle):
    """One weight changed, the hash mended: hashes prove nothing against that, parity does."""
    import onnx
    from onnx import numpy_helper

    path = bundle / "model.fp32.int32.onnx"
    model = onnx.load(path)
    weights = max(model.graph.initializer, key=lambda i: len(i.raw_data))
    array = numpy_helper.to_array(weights) * np.float32(1.01)
    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    rewrite(path, model.SerializeToString())
    edit(bundle, lambda v: v["files"]["model.fp32.int32.onnx"].update(sha256=sha256_of(path)))
    with pytest.raises(ParityError, match=r"model\.fp32\.int32\.onnx"):
        verify_bundle(bundle, lambda _: None)


REFERENCES = {
    "no such array": lambda a: a.pop("logits"),
    "float blocks": lambda a: a.update(blocks=a["blocks"].astype(np.float32)),
    "no block": lambda a: a.update({k: v[:0] for k, v in a.items()}),
    "fewer qindex": lambda a: a.update(qindex=a["qindex"][1:]),
    "thirteen logits": lambda a: a.update(logits=a["logits"][:, 1:]),
    "double logits": lambda a: a.update(logits=a["logits"].astype(np.float64)),
    "no axis": lambda a: a.update(logits=np.float32(0)),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_a_reference_of_another_form_is_corrupt(bundle, case):
    rewrite_reference(bundle, REFERENCES[case])
    with pytest.raises(ArtefactError, match="is no reference"):
        verify_bundle(bundle, lambda _: None)


def test_a_bundle_without_reference_is_not_verified(bundle):
    edit(bundle, lambda v: v["files"].pop("reference.npz"))
    with pytest.raises(ArtefactError, match=r"holds no reference\.npz"):
        verify_bundle(bundle, lambda _: None)


def test_a_bundle_without_onnx_is_not_verified(bundle):
    edit(bundle, lambda v: [v["files"].pop(name) for name in list(v["files"]) if name.endswith(".onnx")])
    with pytest.raises(ArtefactError, match="nothing to verify"):
        verify_bundle(bundle, lambda _: None)


def test_a_precision_without_tolerance_is_not_verified(bundle):
    edit(bundle, lambda v: v["files"]["model.fp32.onnx"].update(precision="bf16"))
    with pytest.raises(ArtefactError, match="bf16"):
        verify_bundle(bundle, lambda _: None)


@pytest.mark.parametrize(
    "parity", [{}, {"8 bit": {}}, {"8 bit": 3}, {"8 bit": {"report": {"max_abs": "x"}}}, {"8 bit": {"report": {}}}]
)
def test_an_odd_certificate_does_not_matter(bundle, parity):
    edit(bundle, lambda v: v["files"]["model.fp32.onnx"].update(parity=parity))
    heard = []
    verify_bundle(bundle, heard.append)
    assert "the export left no certificate" in heard[1] and "at export" in heard[2]


def test_a_session_that_is_off_is_no_parity(bundle, monkeypatch):
    """Not the files but this machine's runtime is wrong."""
    whole = infer.verify.open_session

    def off(*arguments):
        session = whole(*arguments)
        predict = session.predict

        def wrong(blocks, qindex):
            prediction = predict(blocks, qindex)
            prediction.logits[:] += np.float32(0.002)
            return prediction

        session.predict = wrong
        return session

    monkeypatch.setattr(infer.verify, "open_session", off)
    with pytest.raises(ParityError, match=r"max logit difference 2\.0\de-03"):
        verify_bundle(bundle, lambda _: None)
