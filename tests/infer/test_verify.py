"""infer/verify.py: hashes, then parity; a bundle that changed in any way that matters does not pass."""

import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

import infer.verify
from bundle import open_bundle
from errors import ArtefactError, ForeignArtefactError, MissingComponentError, ParityError
from files import sha256_of
from infer.open import open_session
from infer.session import SessionOptions
from infer.verify import read_reference, verify_bundle
from tests.helpers import copy_of, rewrite
from tests.infer.sessions.test_engine_record import FULL


@pytest.fixture
def bundle(bundle_dir, tmp_path):
    return copy_of(bundle_dir, tmp_path / "bundle")


def edit(root, change):
    values = json.loads((root / "manifest.json").read_text())
    change(values)
    rewrite(root / "manifest.json", json.dumps(values))


def verify(root):
    verify_bundle(root, lambda _: None).raise_failures()


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
    result.raise_failures()
    assert [(c.file, c.runtime) for c in result.checks] == [
        (name, runtime)
        for name in ("model.fp32.onnx", "model.fp32.int32.onnx")
        for runtime in ("onnxruntime-cpu", "onnxruntime-cuda")
    ]
    for check in result.checks[::2]:
        assert check.found.report.count == 512 and check.found.report.agreement == 1.0
        assert check.found.report.max_abs <= 1e-3 and check.not_run == ""
        assert check.stored.report == check.found.report, "the same machine computes the same"
        assert check.stored.computed_by == check.found.computed_by
    assert len(heard) == 5 and "every SHA-256" in heard[0]
    values = json.loads(json.dumps(result.to_json()))
    assert values["passed"] and values["checks"][0]["found"]["machine"]["cpu"]


def test_with_a_gpu_the_weights_are_run_as_fused(bundle, monkeypatch):
    asked = []

    def refuse(bundle, runtime, options):
        asked.append((runtime, options.precision, options.bit_depth))
        raise MissingComponentError("no cuBLASLt here")

    def opened(bundle, runtime, options):
        return refuse(bundle, runtime, options) if runtime == "fused" else open_session(bundle, runtime, options)

    monkeypatch.setattr(infer.verify, "cuda_devices", lambda: 1)
    monkeypatch.setattr(infer.verify, "open_session", opened)
    [check] = [c for c in verify_bundle(bundle, lambda _: None).checks if c.runtime == "fused"]
    assert asked == [("fused", "fp16", 8)]
    assert (check.file, check.not_run, check.stored) == ("model.safetensors", "no cuBLASLt here", None)


def test_what_cannot_be_run_here_is_listed_with_the_reason(bundle, monkeypatch):
    def without_cuda(bundle, runtime, options):
        if runtime == "onnxruntime-cuda":
            raise MissingComponentError("no CUDA GPU is visible")
        return open_session(bundle, runtime, options)

    monkeypatch.setattr(infer.verify, "open_session", without_cuda)
    heard = []
    checks = verify_bundle(bundle, heard.append).checks
    assert [c.not_run for c in checks] == ["", "no CUDA GPU is visible"] * 2
    assert heard[2] == "model.fp32.onnx under onnxruntime-cuda: not run here: no CUDA GPU is visible"


def test_where_nothing_can_be_run_nothing_is_verified(bundle, monkeypatch):
    def missing(bundle, runtime, options):
        raise MissingComponentError(f"{runtime} is not there")

    monkeypatch.setattr(infer.verify, "open_session", missing)
    with pytest.raises(MissingComponentError, match="can be run here") as error:
        verify_bundle(bundle, lambda _: None)
    assert error.value.hint == "onnxruntime-cpu is not there; onnxruntime-cuda is not there"


ENGINES = {
    "refused": (ForeignArtefactError("engine of sm_120", "rebuild it"), "engine of sm_120; rebuild it"),
    "missing": (MissingComponentError("tensorrt is not installed"), "tensorrt is not installed"),
    "corrupt": (ArtefactError("no engine at all"), ""),
    "another one": (None, "this machine runs model.fp32.onnx instead"),
}


@pytest.mark.parametrize("case", ENGINES)
def test_an_engine_of_another_machine_is_listed_and_no_failure(bundle, monkeypatch, case):
    error, reason = ENGINES[case]

    def open_engine(bundle, runtime, options):
        if runtime != "tensorrt":
            return open_session(bundle, runtime, options)
        if error:
            raise error
        return open_session(bundle, "onnxruntime-cpu", options)

    rewrite(bundle / "model.engine", b"engine")
    entry = {"sha256": sha256_of(bundle / "model.engine"), "kind": "engine", "precision": "fp32", "input": "uint8"}
    entry |= {"steps": [], "parity": {"reference": {"not run": "no GPU"}}, "engine": FULL.to_dict()}
    edit(bundle, lambda v: v["files"].update({"model.engine": entry}))
    monkeypatch.setattr(infer.verify, "open_session", open_engine)
    if case == "corrupt":
        with pytest.raises(ArtefactError, match="no engine at all"):
            verify_bundle(bundle, lambda _: None)
        return
    result = verify_bundle(bundle, lambda _: None)
    result.raise_failures()
    assert (result.checks[-1].file, result.checks[-1].runtime) == ("model.engine", "tensorrt")
    assert result.checks[-1].not_run == reason


def test_what_changed_since_export_is_marked(bundle):
    def elsewhere(values):
        stored = values["files"]["model.fp32.onnx"]["parity"]["reference"]
        stored["machine"]["cpu"], stored["computed_by"]["version"] = "Z80", "1.2.3"
        stored["report"]["flips"] = 7

    edit(bundle, elsewhere)
    heard = []
    verify_bundle(bundle, heard.append)
    changed = {line.split()[0]: line for line in heard[1].splitlines() if line.endswith("   changed")}
    assert changed.keys() == {"flips", "runtime", "cpu"}
    assert "Z80" in changed["cpu"] and changed["flips"].split() == ["flips", "7", "0", "changed"]
    assert "changed" not in heard[3]


def test_the_pictures_are_written_where_asked(bundle, tmp_path):
    verify_bundle(bundle, lambda _: None, tmp_path / "pictures")
    drawn = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert drawn == [f"model.fp32.{form}onnxruntime-cpu.parity.png" for form in ("int32.onnx.", "onnx.")]
    for name in drawn:
        with Image.open(tmp_path / "pictures" / name) as image:
            assert min(image.size) > 300 and len(np.unique(np.asarray(image))) > 20


def test_the_reference_is_real_blocks_over_all_qindex(bundle):
    blocks, qindex, logits = read_reference(open_bundle(bundle))
    assert blocks.shape == (512, 16, 16) and logits.shape == (512, 14)
    assert set(qindex) == set(range(256))
    assert logits.std(0).min() > 0.5
    assert np.abs(np.diff(blocks.astype(int), axis=2)).mean() < 40, "neighbours are alike, as in no noise"


def test_the_reference_of_a_model_that_sees_a_border_has_one(wide_bundle_dir):
    bundle = open_bundle(wide_bundle_dir)
    blocks, qindex, logits = read_reference(bundle)
    assert blocks.shape == (len(logits), 32, 32) and len(qindex) == len(logits) > 400
    said = str(bundle.manifest.semantics["blocks"])
    assert "[N, 32, 32]" in said and "the 8 samples around it" in said
    expected = open_session(bundle, "torch", SessionOptions()).predict(blocks, qindex).logits
    np.testing.assert_allclose(expected, logits, atol=1e-4)
    checks = verify_bundle(wide_bundle_dir, lambda _: None).checks
    assert {c.file for c in checks if c.found and not c.problems()} == {
        f"model.{p}.{form}onnx" for p in ("fp32", "fp16") for form in ("", "int32.")
    }


@pytest.mark.parametrize("row", [0, 511])
@pytest.mark.parametrize("change", [0.0011, -0.5, np.nan, np.inf])
def test_a_changed_reference_is_no_parity(bundle, row, change):
    def touch(arrays):
        arrays["logits"][row, 5] += change

    rewrite_reference(bundle, touch)
    with pytest.raises(ParityError) as error:
        verify(bundle)
    assert error.value.exit_code == 5


@pytest.mark.parametrize("what", ["blocks", "qindex"])
def test_a_changed_input_is_no_parity(bundle, what):
    def touch(arrays):
        arrays[what][:] = 255 - arrays[what]

    rewrite_reference(bundle, touch)
    with pytest.raises(ParityError, match=r"model\.fp32\.onnx under onnxruntime-cpu: .*more above"):
        verify(bundle)


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
        verify(bundle)


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


def test_a_bomb_in_the_reference_is_not_unpacked(bundle):
    """A few megabytes that unpack to half a gigabyte of blocks."""
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (1 << 21, 16, 16)}
    np.lib.format.write_array_header_1_0(header, shape)
    with np.load(bundle / "reference.npz") as archive:
        arrays = {name: archive[name].copy() for name in archive}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("blocks.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(8):
                member.write(bytes(1 << 26))
        for name in ("qindex", "logits"):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, arrays[name])
    rewrite(bundle / "reference.npz", buffer.getvalue())
    edit(bundle, lambda v: v["files"]["reference.npz"].update(sha256=sha256_of(bundle / "reference.npz")))
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError, match="is no reference"):
            read_reference(open_bundle(bundle))
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_machine_code_is_listed_and_runs_only_if_someone_says_so(bundle, monkeypatch):
    rewrite(bundle / "model.pt2", b"code")
    package = {"runtime": "aotinductor", "version": "1", "device": "cpu", "target": "avx2", "command": "export"}
    entry = {"sha256": sha256_of(bundle / "model.pt2"), "kind": "package", "precision": "fp32", "input": "uint8"}
    edit(bundle, lambda v: v["files"].update({"model.pt2": entry | {"steps": [], "package": package}}))
    asked = []

    def opened(bundle, runtime, options):
        if runtime == "aotinductor" and options.run_code:
            asked.append(runtime)
            raise MissingComponentError("stopped here")
        return open_session(bundle, runtime, options)

    monkeypatch.setattr(infer.verify, "open_session", opened)
    result = verify_bundle(bundle, lambda _: None)
    result.raise_failures()
    [check] = [c for c in result.checks if c.file == "model.pt2"]
    assert check.found is None and not asked
    assert "machine code" in check.not_run and "--run-packages" in check.not_run
    verify_bundle(bundle, lambda _: None, run_code=True)
    assert asked == ["aotinductor"]


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
    "parity",
    [{}, {"reference": {}}, {"reference": {"report": {"max_abs": "x"}}}, {"reference": {"not run": "no GPU"}}],
)
def test_an_odd_certificate_does_not_matter(bundle, parity):
    edit(bundle, lambda v: v["files"]["model.fp32.onnx"].update(parity=parity))
    heard = []
    verify_bundle(bundle, heard.append)
    assert "the export left no certificate" in heard[1] and "the export left no" not in heard[3]


def test_a_certificate_of_an_unknown_tolerance_does_not_matter(bundle):
    edit(bundle, lambda v: v["files"]["model.fp32.onnx"]["parity"]["reference"].update(tolerance="none"))
    assert verify_bundle(bundle, lambda _: None).checks[0].stored is None


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
        verify(bundle)
