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


class Declared:
    """An input or output as ONNX Runtime shows it."""

    def __init__(self, name, kind, *shape):
        self.name, self.type, self.shape = name, f"tensor({kind})", list(shape)


def graph_of(form, changed=None, to=None):
    """Inputs and outputs of a predictor of 16x16 blocks; one of them changed, or left out."""
    inputs = [("blocks", form, "N", 16, 16), ("qindex", "int32", "N")]
    if form == "int32":
        inputs.append(("bit_depth", "int32"))
    outputs = [("logits", "float", "N", 14), ("probability", "float", "N", 10), ("partition", "int32", "N")]
    both = [{each[0]: each for each in part} for part in (inputs, outputs)]
    for part in both:
        if changed in part:
            part[changed] = to
    return [[Declared(*each) for each in part.values() if each] for part in both]


@pytest.fixture
def declaring(monkeypatch):
    """Makes ONNX Runtime declare these inputs and outputs."""

    def install(inputs, outputs):
        monkeypatch.setattr(FellBack, "__init__", lambda *_, **__: None)
        monkeypatch.setattr(FellBack, "get_inputs", lambda _: inputs, raising=False)
        monkeypatch.setattr(FellBack, "get_outputs", lambda _: outputs, raising=False)
        monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)

    return install


@pytest.mark.parametrize("form", ["uint8", "int32"])
def test_the_graph_of_the_contract_is_taken(bundle, declaring, form):
    declaring(*graph_of(form))
    OnnxRuntimeSession(bundle, SessionOptions(form=form), cuda=False)


FOREIGN_GRAPHS = {
    "no blocks": ("blocks", None),
    "no qindex": ("qindex", None),
    "no logits": ("logits", None),
    "no probability": ("probability", None),
    "no partition": ("partition", None),
    "one input more": ("qindex", ("quantiser", "int32", "N")),
    "blocks of 32x32": ("blocks", ("blocks", "uint8", "N", 32, 32)),
    "float blocks": ("blocks", ("blocks", "float", "N", 16, 16)),
    "one qindex for all": ("qindex", ("qindex", "int32", "N", 1)),
    "13 logits": ("logits", ("logits", "float", "N", 13)),
    "logits of several nodes": ("logits", ("logits", "float", "N", 4, 14)),
    "half probabilities": ("probability", ("probability", "float16", "N", 10)),
    "long partitions": ("partition", ("partition", "int64", "N")),
}


@pytest.mark.parametrize("case", FOREIGN_GRAPHS)
def test_a_graph_of_other_inputs_or_outputs_is_foreign(bundle, declaring, case):
    name, to = FOREIGN_GRAPHS[case]
    declaring(*graph_of("uint8", name, to))
    with pytest.raises(ArtefactError, match=f"no partition predictor.*{name}"):
        OnnxRuntimeSession(bundle, SessionOptions(), cuda=False)


def test_deep_samples_need_their_bit_depth(bundle, declaring):
    declaring(*graph_of("int32", "bit_depth", None))
    with pytest.raises(ArtefactError, match="bit_depth"):
        OnnxRuntimeSession(bundle, SessionOptions(10), cuda=False)


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
    """A copy of an ONNX file that declares what it should, and in which constants stand for some outputs."""
    model = onnx.load(path)
    for name, value in outputs.items():
        [node] = [n for n in model.graph.node if name in n.output]
        node.output[list(node.output).index(name)] = f"{name}_before"
        constant = numpy_helper.from_array(value, f"{name}_value")
        model.graph.node.append(helper.make_node("Constant", [], [name], value=constant))
    target.write_bytes(model.SerializeToString())
    return target


FOREIGN = {
    "partition 256, which is 0 in a byte": {"partition": np.full(3, 256, np.int32)},
    "partition -1": {"partition": np.full(3, -1, np.int32)},
    "partition of one block": {"partition": np.zeros(1, np.int32)},
    "a batch too many": {"logits": np.zeros((4, 14), np.float32)},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_answers_of_another_length_or_range_are_none(bundle, real_blocks, tmp_path, monkeypatch, case):
    path = answering(bundle.path("model.fp32.onnx"), tmp_path / "model.onnx", **FOREIGN[case])
    monkeypatch.setattr(type(bundle), "path", lambda self, name: path)
    session = OnnxRuntimeSession(bundle, SessionOptions(), cuda=False)
    with pytest.raises(ArtefactError, match=r"model\.fp32\.onnx gives"):
        session.predict(real_blocks[0][:3], real_blocks[1][:3])
