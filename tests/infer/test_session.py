"""infer/session.py and its sessions: what was asked for runs or nothing does; every runtime says the same."""

import ctypes
import sys

import numpy as np
import onnxruntime
import pytest

import infer.session
import infer.sessions.onnxruntime_session
from bundle import open_bundle
from errors import ArtefactError, ForeignArtefactError, MissingComponentError
from infer.open import open_session
from infer.parity import compare, judge
from infer.runtimes import AUTO_ORDER, RUNTIMES
from infer.session import SessionOptions
from infer.sessions.onnxruntime_session import BoundBatch, OnnxRuntimeSession
from infer.sessions.torch_session import REFERENCE_BATCH, TorchSession
from machine import cuda_devices
from partition import chain_rule
from tests.infer.stand_in import StandInSession
from train.checkpoint import open_run


@pytest.fixture(scope="module")
def bundle(bundle_dir):
    return open_bundle(bundle_dir)


# --- choosing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def only(monkeypatch):
    """Make only these runtimes run; returns what was tried."""
    tried = []

    def install(*runtimes):
        def opened(bundle, runtime, options, announce):
            tried.append(runtime)
            if runtime not in runtimes:
                raise MissingComponentError(f"there is no {runtime}", "get one")
            return StandInSession()

        monkeypatch.setattr(infer.session, "_open", opened)
        return tried

    return install


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_auto_takes_the_first_that_runs_and_says_why_not_the_others(only, first):
    tried, heard = only(*AUTO_ORDER[first:], "torch"), []
    open_session(None, "auto", SessionOptions(), heard.append)
    assert tried == ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu"][: first + 1]
    assert heard == [f"runtime auto passed over {name}: there is no {name}" for name in tried[:-1]]


def test_auto_never_takes_torch(only):
    tried, heard = only("torch"), []
    with pytest.raises(MissingComponentError, match="no runtime can run") as error:
        open_session(None, "auto", SessionOptions(), heard.append)
    assert "torch" not in tried and all(name in error.value.hint for name in AUTO_ORDER)
    assert not heard


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_was_asked_for_runs_or_nothing_does(only, runtime):
    tried = only(*(r for r in RUNTIMES if r != runtime))
    with pytest.raises(MissingComponentError, match=runtime):
        open_session(None, runtime, SessionOptions())
    assert tried == [runtime]


def test_auto_passes_over_engines_of_another_gpu(monkeypatch):
    def opened(bundle, runtime, options, announce):
        if runtime == "onnxruntime-cuda":
            return StandInSession()
        raise ForeignArtefactError(f"the {runtime} engine is of another GPU")

    heard = []
    monkeypatch.setattr(infer.session, "_open", opened)
    open_session(None, "auto", SessionOptions(), heard.append)
    assert [line for line in heard if "of another GPU" in line] == heard and len(heard) == 2


def test_auto_does_not_hide_a_corrupt_artefact(monkeypatch):
    def corrupt(*_):
        raise ArtefactError("corrupt")

    monkeypatch.setattr(infer.session, "_open", corrupt)
    with pytest.raises(ArtefactError):
        open_session(None, "auto", SessionOptions())


def test_an_unknown_runtime_is_a_programming_error(bundle):
    with pytest.raises(ValueError, match="openvino"):
        open_session(bundle, "openvino", SessionOptions())


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu", "onnxruntime-cuda"])
def test_a_library_that_is_not_installed_is_named(bundle, runtime, monkeypatch):
    monkeypatch.setitem(sys.modules, runtime.partition("-")[0], None)
    with pytest.raises(MissingComponentError, match="is not installed") as error:
        open_session(bundle, runtime, SessionOptions())
    assert error.value.hint.startswith("pip install") and error.value.exit_code == 4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("runtime", ["auto", "torch", "onnxruntime-cpu", "tensorrt", "tensorrt-rtx"])
def test_a_precision_that_is_not_there_is_missing(bundle, runtime, precision):
    with pytest.raises(MissingComponentError) as error:
        open_session(bundle, runtime, SessionOptions(precision=precision))
    assert precision in error.value.message + error.value.hint


def test_fused_needs_fp16_and_a_gpu(bundle, monkeypatch):
    import torch

    with pytest.raises(MissingComponentError, match="no fp32") as error:
        open_session(bundle, "fused", SessionOptions())
    assert "fp16" in error.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingComponentError, match="needs a CUDA GPU") as error:
        open_session(bundle, "fused", SessionOptions(precision="fp16"))
    assert error.value.exit_code == 4


# --- GPUs -------------------------------------------------------------------------------------------------------------


class Driver:
    def __init__(self, count, init=0, asked=0):
        self.count, self.init, self.asked = count, init, asked

    def cuInit(self, flags):  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, pointer):  # noqa: N802
        pointer._obj.value = self.count
        return self.asked


@pytest.mark.parametrize(
    ("driver", "count"), [(Driver(3), 3), (Driver(0), 0), (Driver(3, init=100), 0), (Driver(3, asked=3), 0)]
)
def test_gpus_are_those_that_the_driver_counts(monkeypatch, driver, count):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert cuda_devices() == count


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert cuda_devices() == 0


def test_cuda_without_a_gpu_is_missing(bundle, monkeypatch):
    monkeypatch.setattr(infer.sessions.onnxruntime_session, "cuda_devices", lambda: 0)
    with pytest.raises(MissingComponentError, match="no CUDA GPU"):
        open_session(bundle, "onnxruntime-cuda", SessionOptions())


def test_cuda_with_an_onnxruntime_for_the_cpu_is_missing(bundle, monkeypatch):
    monkeypatch.setattr(infer.sessions.onnxruntime_session, "cuda_devices", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingComponentError, match="no CUDA provider") as error:
        open_session(bundle, "onnxruntime-cuda", SessionOptions())
    assert "onnxruntime-gpu" in error.value.hint


class FellBack:
    """An onnxruntime that was asked for CUDA and quietly runs on the CPU."""

    def __init__(self, path, settings, providers):
        [(provider, options)] = providers
        assert provider == "CUDAExecutionProvider"
        assert options["use_tf32"] == "0", "float32 means float32"
        assert options["enable_cuda_graph"] == "1", "no node runs elsewhere"

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def run(self, *_):
        raise AssertionError("it must not be used")


def test_the_provider_is_read_back_and_must_be_the_one_asked_for(bundle, monkeypatch, capfd):
    def printing():
        print("Failed to load libcublasLt")

    monkeypatch.setattr(infer.sessions.onnxruntime_session, "cuda_devices", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", printing, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    with pytest.raises(MissingComponentError, match="fell back to CPUExecutionProvider") as error:
        open_session(bundle, "onnxruntime-cuda", SessionOptions())
    assert error.value.hint and error.value.exit_code == 4
    assert capfd.readouterr() == ("", ""), "one line of error, and nothing beside it"


# --- the graph that is loaded -----------------------------------------------------------------------------------------


class Named:
    def __init__(self, name):
        self.name = name


@pytest.mark.parametrize("form", ["uint8", "int32"])
@pytest.mark.parametrize("lost", ["blocks", "qindex", "bit_depth", "logits", "probability", "partition"])
def test_a_graph_of_other_inputs_or_outputs_is_foreign(bundle, monkeypatch, form, lost):
    names = {"blocks", "qindex"} | ({"bit_depth"} if form == "int32" else set())
    monkeypatch.setattr(FellBack, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(
        FellBack, "get_inputs", lambda _: [Named(n) for n in names ^ ({lost} & {"bit_depth", *names})], raising=False
    )
    outputs = {"logits", "probability", "partition"}
    monkeypatch.setattr(FellBack, "get_outputs", lambda _: [Named(n) for n in outputs - {lost}], raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    with pytest.raises(ArtefactError, match="no partition predictor"):
        OnnxRuntimeSession(bundle, SessionOptions(form=form), cuda=False)


# --- what sessions say ------------------------------------------------------------------------------------------------


def at_depth(blocks, bit_depth):
    """Real blocks with more bits: shifted, the low ones from the block's neighbour to the left."""
    shift = bit_depth - 8
    return ((blocks.astype(np.uint16) << shift) | (np.roll(blocks, 1, 2) >> (8 - shift))) if shift else blocks


@pytest.fixture(scope="module")
def reference(bundle, real_blocks):
    """By bit depth: blocks, and the prediction of the run's own model under PyTorch."""
    blocks, qindex, _ = real_blocks
    torch_session = {depth: TorchSession(bundle, SessionOptions(depth)) for depth in (8, 10, 12)}
    return {d: (at_depth(blocks, d), s.predict(at_depth(blocks, d), qindex)) for d, s in torch_session.items()}


@pytest.mark.parametrize(("bit_depth", "form"), [(8, ""), (8, "int32"), (10, ""), (12, "")])
def test_onnxruntime_agrees_with_torch_on_real_blocks(bundle, real_blocks, reference, bit_depth, form):
    blocks, expected = reference[bit_depth]
    qindex = real_blocks[1]
    session = open_session(bundle, "onnxruntime-cpu", SessionOptions(bit_depth, form=form))
    assert session.info.file == ("model.fp32.int32.onnx" if form or bit_depth > 8 else "model.fp32.onnx")
    found = session.predict(blocks, qindex)
    assert expected.logits.std(0).min() > 0.6, "logits that all but agree by themselves"
    assert judge(compare(expected.logits, found.logits, qindex), "fp32") == []
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
    assert (found.partition == expected.partition).mean() > 0.998


def test_the_bit_depth_changes_what_is_seen(bundle, real_blocks, reference):
    """The same samples read at another depth are another picture: the input bit_depth is used."""
    blocks, expected = reference[10]
    wrong = open_session(bundle, "onnxruntime-cpu", SessionOptions(12)).predict(blocks, real_blocks[1])
    assert np.abs(wrong.logits - expected.logits).max() > 0.1


@pytest.mark.parametrize("bit_depth", [10, 12])
def test_a_deeper_copy_of_a_picture_looks_the_same(bundle, real_blocks, reference, bit_depth):
    deep = reference[bit_depth][1]
    assert (deep.partition == reference[8][1].partition).mean() > 0.95


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_a_prediction_is_what_the_protocol_says(bundle, real_blocks, reference, runtime, bit_depth):
    session = open_session(bundle, runtime, SessionOptions(bit_depth, threads=1))
    for count in (1, 2, 33):
        blocks, qindex = reference[bit_depth][0][:count], real_blocks[1][:count]
        for dtype in (np.uint8, np.int32, np.int64):
            found = session.predict(blocks, qindex.astype(dtype))
            shapes = [(a.dtype, a.shape) for a in (found.logits, found.probability, found.partition)]
            assert shapes == [(np.float32, (count, 14)), (np.float32, (count, 10)), (np.uint8, (count,))]
        np.testing.assert_allclose(found.probability, chain_rule(found.logits), atol=1e-5)
        np.testing.assert_array_equal(found.partition, found.probability.argmax(1))
        np.testing.assert_allclose(found.probability.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu"])
def test_blocks_that_are_a_view_are_read_right(bundle, real_blocks, runtime):
    blocks, qindex, _ = real_blocks
    session = open_session(bundle, runtime, SessionOptions())
    whole = session.predict(blocks[:64], qindex[:64])
    found = session.predict(blocks[:64][::-1][::2], qindex[:64][::-1][::2])
    np.testing.assert_allclose(found.logits, whole.logits[::-1][::2], atol=1e-4)


@pytest.mark.parametrize(("bit_depth", "form"), [(8, ""), (10, "")])
def test_buffers_that_are_used_again_change_nothing(bundle, real_blocks, reference, bit_depth, form):
    """What CUDA uses, bound on the CPU."""
    plain = open_session(bundle, "onnxruntime-cpu", SessionOptions(bit_depth, form=form))
    bound = BoundBatch(plain._session, 64, plain._dtype, plain._bit_depth, "cpu")
    blocks, qindex = reference[bit_depth][0], real_blocks[1]
    first = None
    for part in (slice(0, 64), slice(64, 65), slice(100, 133), slice(0, 64)):
        expected, found = plain.predict(blocks[part], qindex[part]), bound.predict(blocks[part], qindex[part])
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
        assert found.partition.dtype == np.uint8 and len(found.probability) == len(blocks[part])
        first = first if first is not None else found.logits.copy()
    np.testing.assert_array_equal(found.logits, first)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime-cpu"])
def test_qindex_counts(bundle, real_blocks, runtime):
    session = open_session(bundle, runtime, SessionOptions())
    low, high = (session.predict(real_blocks[0][:64], np.full(64, q, np.uint8)).logits for q in (0, 255))
    assert np.abs(low - high).max() > 1e-3


def test_torch_splits_large_batches_without_a_seam(bundle, real_blocks):
    blocks = np.tile(real_blocks[0], (3, 1, 1))[: REFERENCE_BATCH + 3]
    qindex = np.tile(real_blocks[1], 3)[: REFERENCE_BATCH + 3]
    session = TorchSession(bundle, SessionOptions())
    whole = session.predict(blocks, qindex)
    end = session.predict(blocks[-5:], qindex[-5:])
    np.testing.assert_allclose(whole.logits[-5:], end.logits, atol=1e-4)


def test_a_runs_model_and_its_bundles_weights_are_the_same(bundle, run_dir, real_blocks, reference):
    session = TorchSession.of_model(open_run(run_dir).model, 8)
    np.testing.assert_array_equal(session.predict(*real_blocks[:2]).logits, reference[8][1].logits)


def test_info_is_read_back(bundle):
    info = open_session(bundle, "onnxruntime-cpu", SessionOptions()).info
    assert (info.runtime, info.provider, info.device) == ("onnxruntime-cpu", "CPUExecutionProvider", "cpu")
    assert info.version == onnxruntime.__version__
    text = info.describe()
    assert all(word in text for word in (info.runtime, info.version, info.provider, "fp32", "model.fp32.onnx"))


def test_options_choose_the_input_form():
    assert SessionOptions(8).input_form == "uint8"
    assert SessionOptions(10).input_form == SessionOptions(12).input_form == "int32"
    assert SessionOptions(8, form="int32").input_form == "int32"
