"""tensorrt_session.py: on a GPU where there is one; elsewhere its refusals, and its arithmetic around an engine
that is onnxruntime in disguise."""

import dataclasses
import sys
import weakref

import numpy as np
import pytest

from bundle import Bundle, BundleFile, open_bundle
from errors import ArtefactError, ForeignArtefactError, MissingComponentError, UntrustedCodeError
from infer.open import open_session
from infer.session import SessionOptions
from infer.sessions.cuda import Driver, Gpu
from infer.sessions.tensorrt_session import TensorRtSession
from tests.infer.sessions.test_engine_record import FULL, H200, L4, L40, RTX
from tests.tensorrt_stub import HostDriver, at, make_tensorrt

NAME = "model.fp32.sm89.tensorrt.engine"


@pytest.fixture(scope="module")
def onnx_bundle(bundle_dir):
    return open_bundle(bundle_dir)


@pytest.fixture
def place(onnx_bundle, tmp_path, monkeypatch):
    """Factory of a bundle with engines, and of a TensorRT: returns a function that opens a session on it."""

    def install(*records, rtx=False, form="uint8", of=onnx_bundle, **module):
        manifest = of.manifest
        onnx = "model.fp32.onnx" if form == "uint8" else "model.fp32.int32.onnx"
        files = dict(manifest.files)
        for index, record in enumerate(records):
            source = {"onnx": onnx, "onnx_sha256": record.onnx_sha256.strip("0") or files[onnx].sha256}
            made = dataclasses.replace(record, **source).to_dict()
            files[f"{index}.{NAME}"] = BundleFile("0" * 64, "engine", "fp32", form, engine=made)
            (tmp_path / f"{index}.{NAME}").write_bytes(b"plan")
        bundle = Bundle(tmp_path, dataclasses.replace(manifest, files=files))
        library = make_tensorrt(rtx=rtx, **module)
        monkeypatch.setitem(sys.modules, library.__name__, library)
        runtime = "tensorrt-rtx" if rtx else "tensorrt"

        def opened(gpu=L4, bit_depth=8, run_code=False):
            options = SessionOptions(bit_depth, form=form if bit_depth == 8 else "", run_code=run_code)
            return TensorRtSession(bundle, options, runtime, lambda: HostDriver(gpu))

        return library.asked, opened

    return install


def onnxruntime_as_engine(bundle, bit_depth=8, form="uint8"):
    """What an engine computes: onnxruntime on the ONNX file that it was built from, between addresses of memory."""
    session = open_session(bundle, "onnxruntime-cpu", SessionOptions(bit_depth, form=form))._session

    def compute(tensors):
        types = {"blocks": np.uint8 if form == "uint8" else np.int32}
        inputs = [n for n in tensors if n in ("blocks", "qindex", "bit_depth")]
        feeds = {n: at(tensors[n][0], types.get(n, np.int32), tensors[n][1]) for n in inputs}
        for name, values in zip(["logits", "probability", "partition"], session.run(None, feeds), strict=True):
            address, shape = tensors[name]
            at(address, np.int32 if name == "partition" else np.float32, shape)[...] = values

    return compute


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 255, 256, 257, 700])
def test_any_batch_comes_out_as_if_run_at_once(place, onnx_bundle, real_blocks, count):
    """The profile holds 4 to 256 blocks: smaller batches are filled up, larger ones split, and nothing is mixed up."""
    asked, opened = place(FULL, version=FULL.version)
    asked.compute, asked.profile = onnxruntime_as_engine(onnx_bundle), (4, 64, 256)
    blocks, qindex = real_blocks[0][:count], real_blocks[1][:count]
    session = opened()
    found = session.predict(blocks, qindex)
    expected = open_session(onnx_bundle, "onnxruntime-cpu", SessionOptions()).predict(blocks, qindex)
    for name in ("logits", "probability", "partition"):
        got, want = getattr(found, name), getattr(expected, name)
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-5)
    seen = [shape[0] for shape in asked.contexts[0].shapes_seen]
    assert seen == [max(4, min(256, count - start)) for start in range(0, count, 256)]
    assert session._driver.entered == 1


def test_a_session_is_used_again_and_again_with_batches_that_grow_and_shrink(place, onnx_bundle, real_blocks):
    asked, opened = place(FULL, version=FULL.version)
    asked.compute = onnxruntime_as_engine(onnx_bundle)
    session = opened()
    parts = (slice(0, 10), slice(0, 200), slice(50, 200), slice(199, 200))
    found = [session.predict(real_blocks[0][part], real_blocks[1][part]).logits for part in parts]
    for part, logits in zip(parts, found, strict=True):
        np.testing.assert_allclose(logits, found[1][part], atol=1e-5)
    assert len(session._memory) == 5, "buffers are kept"


@pytest.mark.parametrize("bit_depth", [10, 12])
def test_deep_samples_take_the_int32_form_and_say_their_depth(place, onnx_bundle, real_blocks, bit_depth):
    asked, opened = place(FULL, form="int32", version=FULL.version)
    asked.compute = onnxruntime_as_engine(onnx_bundle, bit_depth, "int32")
    asked.tensors |= {"blocks": ("INT32", (-1, 16, 16)), "bit_depth": ("INT32", ())}
    blocks, qindex = real_blocks[0][:40].astype(np.uint16) << (bit_depth - 8), real_blocks[1][:40]
    expected = open_session(onnx_bundle, "onnxruntime-cpu", SessionOptions(bit_depth)).predict(blocks, qindex)
    np.testing.assert_allclose(opened(bit_depth=bit_depth).predict(blocks, qindex).logits, expected.logits, atol=1e-5)


def test_an_engine_of_a_model_that_sees_a_border_takes_bordered_blocks(place, wide_bundle_dir, wide_blocks):
    bundle = open_bundle(wide_bundle_dir)
    asked, opened = place(FULL, of=bundle, version=FULL.version)
    asked.compute, asked.profile = onnxruntime_as_engine(bundle), (4, 64, 256)
    asked.tensors |= {"blocks": ("UINT8", (-1, 32, 32))}
    blocks, qindex = wide_blocks[0][:300], wide_blocks[1][:300]
    expected = open_session(bundle, "onnxruntime-cpu", SessionOptions()).predict(blocks, qindex)
    np.testing.assert_allclose(opened().predict(blocks, qindex).logits, expected.logits, atol=1e-4)


@pytest.mark.parametrize("wide", [True, False])
def test_an_engine_for_blocks_of_another_size_is_refused(place, onnx_bundle, wide_bundle_dir, wide):
    asked, opened = place(FULL, of=open_bundle(wide_bundle_dir) if wide else onnx_bundle, version=FULL.version)
    asked.tensors |= {"blocks": ("UINT8", (-1, 16, 16) if wide else (-1, 32, 32))}
    with pytest.raises(ArtefactError, match="its blocks differ"):
        opened()


def test_info_says_what_runs_where(place):
    _, opened = place(RTX, rtx=True, version="1.7.1.116")
    info = opened(L40).info
    assert (info.runtime, info.version, info.file) == ("tensorrt-rtx", "1.7.1.116", f"0.{NAME}")
    assert info.device == "cuda:0 (NVIDIA L40, compute capability 8.9, driver CUDA 13.0)"
    assert info.provider == "2 engine layers"


def test_device_memory_is_given_back(place, onnx_bundle, real_blocks):
    asked, opened = place(FULL, version=FULL.version)
    asked.compute = onnxruntime_as_engine(onnx_bundle)
    session = opened()
    session.predict(real_blocks[0][:8], real_blocks[1][:8])
    held, gone = session._driver._held, weakref.ref(session)
    assert len(held) == 5
    del session
    assert gone() is None and not held


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_the_engine_for_this_gpu_is_taken(place):
    other = dataclasses.replace(RTX, sm=86)
    _, opened = place(other, RTX, dataclasses.replace(RTX, sm=120), rtx=True, version="1.7.1.116")
    assert opened(L4).info.file == f"1.{NAME}"
    assert opened(Gpu("NVIDIA GeForce RTX 5090", 120, "13.0")).info.file == f"2.{NAME}"


@pytest.mark.parametrize(
    ("record", "version", "gpu", "said"),
    [
        (FULL, "10.9.0.34", L40, "this is NVIDIA L40 of 8.9"),
        (FULL, "11.0.0.1", L4, r"built by tensorrt 10\.9\.0\.34, and 11\.0\.0\.1 is installed"),
        (RTX, "1.8.0.1", L4, r"built by tensorrt-rtx 1\.7\.1\.116, and 1\.8\.0\.1 is installed"),
        (RTX, "1.7.1.116", Gpu("NVIDIA RTX A2000", 86, "13.0"), "this is NVIDIA RTX A2000 of 8.6"),
    ],
)
def test_a_foreign_gpu_or_version_is_refused_with_the_command_that_rebuilds(place, record, version, gpu, said):
    asked, opened = place(record, rtx=record is RTX, version=version)
    with pytest.raises(ForeignArtefactError, match=said) as error:
        opened(gpu)
    assert error.value.exit_code == 6 and error.value.hint == f"rebuild it here: {record.rebuild}"
    assert not asked.runtimes, "nothing was loaded"


def test_a_gpu_that_rtx_never_runs_on_is_told_what_does(place):
    _, opened = place(RTX, dataclasses.replace(RTX, sm=120), rtx=True, version="1.7.1.116")
    with pytest.raises(ForeignArtefactError, match=r"8\.9, and this is NVIDIA H200 of 9\.0; .*12\.0") as error:
        opened(H200)
    assert "does not run on compute capability 9.0" in error.value.hint
    assert "onnxruntime-cuda" in error.value.hint and error.value.hint.endswith("cli.py export --engine tensorrt")


@pytest.mark.parametrize(
    ("cause", "said", "hint"),
    [
        ("VERSION_MISMATCH", "version mismatch", "rebuild it here: cli.py export"),
        ("OLD_CUDA_DRIVER", "old cuda driver", "update the GPU driver"),
        ("INSUFFICIENT_GPU_MEMORY", "insufficient gpu memory", "rebuild it here"),
        (None, "its header is not accepted", "rebuild it here"),
    ],
)
def test_what_rtx_reads_off_the_header_is_said(place, cause, said, hint):
    asked, opened = place(RTX, rtx=True, version="1.7.1.116")
    module = sys.modules["tensorrt_rtx"]
    flags = 0 if cause is None else int(module.EngineInvalidityDiagnostics[cause])
    asked.validity = module.EngineValidity.INVALID, flags
    with pytest.raises(ForeignArtefactError, match=said) as error:
        opened()
    assert hint in error.value.hint and error.value.message.endswith("; The engine cannot run: the header says so")


def test_an_engine_that_runs_slower_than_it_could_runs(place):
    asked, opened = place(RTX, rtx=True, version="1.7.1.116")
    asked.validity = sys.modules["tensorrt_rtx"].EngineValidity.SUBOPTIMAL, 0
    assert opened().info.runtime == "tensorrt-rtx"


def test_an_engine_that_does_not_load_is_foreign(place):
    asked, opened = place(FULL, version=FULL.version)
    asked.refuse = "deserialize"
    with pytest.raises(ForeignArtefactError, match=r"does not load here: expecting compute 8\.9") as error:
        opened()
    assert error.value.hint.startswith("rebuild it here")


@pytest.mark.parametrize("compatible", [False, True])
def test_host_code_is_allowed_only_where_it_was_asked_for(place, compatible):
    asked, opened = place(dataclasses.replace(FULL, version_compatible=compatible), version=FULL.version)
    opened(run_code=compatible)
    assert asked.runtimes[0].engine_host_code_allowed is compatible


def test_an_engine_with_host_code_is_loaded_only_if_someone_says_so(place):
    asked, opened = place(dataclasses.replace(FULL, version_compatible=True), version=FULL.version)
    with pytest.raises(UntrustedCodeError, match="code of its own") as error:
        opened()
    assert not asked.runtimes and "--run-packages" in error.value.hint


@pytest.mark.parametrize(("refuse", "said"), [("context", "finds no room on NVIDIA L4"), ("run", "does not run")])
def test_a_gpu_that_cannot_is_missing_something(place, real_blocks, refuse, said):
    asked, opened = place(FULL, version=FULL.version)
    asked.refuse = refuse
    with pytest.raises(MissingComponentError, match=said):
        opened().predict(real_blocks[0][:4], real_blocks[1][:4])


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("blocks", ("INT32", (-1, 16, 16))),
        ("logits", ("HALF", (-1, 14))),
        ("probability", ("FLOAT", (-1, 9))),
        ("more", ("FLOAT", (-1,))),
    ],
)
def test_an_engine_of_other_inputs_or_outputs_is_no_predictor(place, name, tensor):
    asked, opened = place(FULL, version=FULL.version)
    asked.tensors[name] = tensor
    with pytest.raises(ArtefactError, match=f"no partition predictor: its {name} differ") as error:
        opened()
    assert not isinstance(error.value, ForeignArtefactError)


def test_an_engine_of_another_graph_than_the_one_beside_it_is_refused(place):
    _, opened = place(dataclasses.replace(FULL, onnx_sha256="abc"), version=FULL.version)
    with pytest.raises(ArtefactError, match=r"was not built from the model\.fp32\.onnx beside it"):
        opened()


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_a_bundle_without_such_an_engine_is_told_how_to_get_one(place, bit_depth):
    _, opened = place(RTX, version=FULL.version)
    with pytest.raises(MissingComponentError, match="holds no tensorrt engine for fp32") as error:
        opened(bit_depth=bit_depth)
    assert "--engine tensorrt" in error.value.hint
    assert ("--engine-input int32" in error.value.hint) == (bit_depth == 10)


def test_the_host_driver_of_these_tests_is_like_the_real_one():
    public = {name for name in dir(HostDriver) if not name.startswith("_")}
    assert public <= {name for name in dir(Driver) if not name.startswith("_")}
