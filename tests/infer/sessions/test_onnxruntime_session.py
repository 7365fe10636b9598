"""ONNX Runtime: the provider that runs is the one asked for, and the graph is the one of the contract."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from bundle import open_bundle
from errors import ArtefactError, MissingComponentError
from infer.open import open_session
from infer.session import SessionOptions
from infer.sessions.onnxruntime_session import BoundBatch, OnnxRuntimeSession


@pytest.fixture(scope="module")
def bundle(bundle_dir):
    return open_bundle(bundle_dir)


# --- CUDA -------------------------------------------------------------------------------------------------------------


def test_cuda_with_an_onnxruntime_for_the_cpu_is_missing(bundle, monkeypatch):
    monkeypatch.setattr("infer.open.cuda_devices", lambda: 1)
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

    monkeypatch.setattr("infer.open.cuda_devices", lambda: 1)
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


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_buffers_that_are_used_again_change_nothing(bundle, real_blocks, bit_depth):
    """What CUDA uses, bound on the CPU."""
    plain = open_session(bundle, "onnxruntime-cpu", SessionOptions(bit_depth))
    bound = BoundBatch(plain._session, 64, plain._dtype, plain._bit_depth, "cpu", bundle.manifest.task)
    blocks, qindex = real_blocks[0], real_blocks[1]
    blocks = blocks if bit_depth == 8 else blocks.astype(np.uint16) << 2
    first = None
    for part in (slice(0, 64), slice(64, 65), slice(100, 133), slice(0, 64)):
        expected, found = plain.predict(blocks[part], qindex[part]), bound.run(blocks[part], qindex[part])
        np.testing.assert_allclose(found[0], expected.logits, atol=1e-4)
        assert found[2].dtype == np.int32 and len(found[1]) == len(blocks[part])
        first = first if first is not None else found[0].copy()
    np.testing.assert_array_equal(found[0], first)


def answering(path, target, **outputs):
    """A copy of an ONNX file in which constants stand for some outputs, as a foreign file could have them."""
    model = onnx.load(path)
    for name, value in outputs.items():
        [node] = [n for n in model.graph.node if name in n.output]
        node.output[list(node.output).index(name)] = f"{name}_before"
        constant = numpy_helper.from_array(value, f"{name}_value")
        model.graph.node.append(helper.make_node("Constant", [], [name], value=constant))
        [info] = [o for o in model.graph.output if o.name == name]
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        info.CopyFrom(helper.make_tensor_value_info(name, kind, value.shape))
    target.write_bytes(model.SerializeToString())
    return target


FOREIGN = {
    "partition 256, which is 0 in a byte": {"partition": np.full(3, 256, np.int32)},
    "partition -1": {"partition": np.full(3, -1, np.int32)},
    "partition as float": {"partition": np.zeros(3, np.float32)},
    "partition of one block": {"partition": np.zeros(1, np.int32)},
    "double probabilities": {"probability": np.full((3, 10), 0.1)},
    "nine probabilities": {"probability": np.full((3, 9), 0.1, np.float32)},
    "a batch too many": {"logits": np.zeros((4, 14), np.float32)},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_answers_of_another_type_shape_or_range_are_none(bundle, real_blocks, tmp_path, monkeypatch, case):
    path = answering(bundle.path("model.fp32.onnx"), tmp_path / "model.onnx", **FOREIGN[case])
    monkeypatch.setattr(type(bundle), "path", lambda self, name: path)
    session = OnnxRuntimeSession(bundle, SessionOptions(), cuda=False)
    with pytest.raises(ArtefactError, match=r"model\.fp32\.onnx gives"):
        session.predict(real_blocks[0][:3], real_blocks[1][:3])
