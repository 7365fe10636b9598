"""The ONNX files: what nodes they hold, any batch size, what they say of themselves, and what they compute."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU
from description import BLOCKS, task_of_border
from export.onnx_writer import build_onnx, onnx_bytes
from infer.parity import compare, judge
from infer.sessions.torch_session import reference_prediction
from tests.helpers import REPO

REFUSED_BY_TENSORRT = {"SplitToSequence", "SequenceAt", "SequenceConstruct", "ConcatFromSequence", "BitShift", "Mod"}


@pytest.fixture(scope="module")
def written(trained_like):
    """Factory of ONNX graphs, each made once."""
    made = {}

    def write(trunk: str, fold: bool, form: str = "uint8", border: int = 0):
        key = trunk, fold, form, border
        if key not in made:
            model, _ = compile_model(trained_like(trunk=trunk, border=border), ONNXRUNTIME_CPU, fold=fold)
            made[key] = build_onnx(model, form, {"semantics": "{}", "keep": "{}"}, task_of_border(border))
        return made[key]

    return write


def run(proto, **feeds):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits", "probability", "partition"], feeds)


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_a_folded_file_holds_no_batch_norm(written, trunk):
    assert not [n.name for n in written(trunk, True).graph.node if n.op_type == "BatchNormalization"]


def test_an_unfolded_file_holds_its_batch_norms(written, trained_like):
    """resnet18's trunk has 20; the graph runs its last stage twice, without and with adapters, and these have 2."""
    count = Counter(n.op_type for n in written("resnet18", False).graph.node)["BatchNormalization"]
    trunk = trained_like(trunk="resnet18").trunk
    names = [name for name, _ in trunk.named_modules() if name.endswith("bn")]
    tail = [name for name in names if name.startswith("layer4")]
    assert len(names) == 20
    assert count == len(names) + len(tail) + 2


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
@pytest.mark.parametrize("fold", [True, False])
def test_no_operator_that_tensorrt_refuses(written, trunk, fold):
    assert not {n.op_type for n in written(trunk, fold).graph.node} & REFUSED_BY_TENSORRT


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
@pytest.mark.parametrize("fold", [True, False])
def test_the_blocks_meet_a_cast_and_nothing_else(written, trunk, fold):
    """TensorRT takes uint8 as a network input, but no operation except a cast reads it."""
    readers = [n.op_type for n in written(trunk, fold).graph.node if "blocks" in n.input]
    assert readers and set(readers) == {"Cast"}


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_axes_and_slices_are_constants(written, trunk):
    """Not the shapes of all reshapes: some hold the batch size."""
    graph = written(trunk, True).graph
    constants = {i.name for i in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    given = {"ReduceMean": 1, "ReduceMax": 1, "Slice": 1, "Unsqueeze": 1}
    found = [n for n in graph.node if n.op_type in given]
    assert found and all(set(n.input[given[n.op_type] :]) <= constants for n in found)


@pytest.mark.parametrize(("trunk", "fold"), [("compact", True), ("compact", False), ("resnet18", True)])
def test_any_batch_size_gives_the_reference(written, trained_like, real_blocks, trunk, fold):
    blocks, qindex, _ = real_blocks
    expected = reference_prediction(trained_like(trunk=trunk), blocks[:300], qindex[:300], 8)
    for count in (1, 2, 5, 300):
        got = run(written(trunk, fold), blocks=blocks[:count], qindex=qindex[:count])
        report = compare(expected.logits[:count], got[0], qindex[:count])
        assert judge(report, "fp32") == [], report.summary()
        np.testing.assert_allclose(got[1], expected.probability[:count], atol=1e-3)
        assert np.array_equal(got[2], got[1].argmax(1))


@pytest.mark.parametrize(("trunk", "fold"), [("compact", True), ("compact", False), ("resnet18", True)])
def test_with_a_border_too_tensorrt_finds_nothing_to_refuse(written, trunk, fold):
    """What reads the blocks is a cast; axes and slices are constants; all else TensorRT has."""
    graph = written(trunk, fold, border=8).graph
    assert {n.op_type for n in graph.node if "blocks" in n.input} == {"Cast"}
    kinds = Counter(n.op_type for n in graph.node)
    assert not set(kinds) & REFUSED_BY_TENSORRT and kinds["AveragePool"] == 1
    constants = {i.name for i in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    slices = [n for n in graph.node if n.op_type == "Slice"]
    assert slices and all(set(n.input[1:]) <= constants for n in slices)
    [blocks] = [v for v in graph.input if v.name == "blocks"]
    assert [d.dim_value for d in blocks.type.tensor_type.shape.dim][1:] == [32, 32]


@pytest.mark.parametrize("form", ["uint8", "int32"])
@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_bordered_blocks_give_the_reference(written, trained_like, wide_blocks, trunk, form):
    blocks, qindex, _ = wide_blocks
    expected = reference_prediction(trained_like(trunk=trunk, border=8), blocks[:300], qindex[:300], 8)
    extra = {} if form == "uint8" else {"bit_depth": np.array(8, np.int32)}
    for count in (1, 2, 300):
        feeds = {"blocks": blocks[:count].astype(form), "qindex": qindex[:count], **extra}
        report = compare(expected.logits[:count], run(written(trunk, True, form, 8), **feeds)[0], qindex[:count])
        assert judge(report, "fp32") == [], report.summary()


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_the_int32_form_takes_every_bit_depth(written, trained_like, real_blocks, depth):
    blocks = real_blocks[0][:64].astype(np.uint16) << (depth - 8)
    qindex = real_blocks[1][:64]
    expected = reference_prediction(trained_like(trunk="compact"), blocks, qindex, depth).logits
    feeds = {"blocks": blocks.astype(np.int32), "qindex": qindex, "bit_depth": np.array(depth, np.int32)}
    got = run(written("compact", True, "int32"), **feeds)[0]
    assert judge(compare(expected, got, qindex), "fp32") == []


def test_types_and_shapes_are_the_contracts(written):
    graph = written("compact", True).graph
    shapes = {
        v.name: (v.type.tensor_type.elem_type, [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    }
    batch = shapes["blocks"][1][0]
    assert isinstance(batch, str)
    kinds = onnx.TensorProto
    assert shapes == {
        "blocks": (kinds.UINT8, [batch, 16, 16]),
        "qindex": (kinds.INT32, [batch]),
        "logits": (kinds.FLOAT, [batch, 14]),
        "probability": (kinds.FLOAT, [batch, 10]),
        "partition": (kinds.INT32, [batch]),
    }


def test_a_model_that_is_compiled_again_gives_the_same_file(written, trained_like):
    """Engines are kept by the hash of their ONNX file; and the file says nothing of the machine it was made on."""
    first = written("compact", True).SerializeToString(deterministic=True)
    model, _ = compile_model(trained_like(trunk="compact"), ONNXRUNTIME_CPU)
    again = build_onnx(model, "uint8", {"semantics": "{}", "keep": "{}"}, BLOCKS)
    assert first == onnx_bytes(again)
    assert b"stack_trace" not in first and str(REPO).encode() not in first


def test_the_same_model_gives_the_same_bytes_and_metadata(written):
    proto = written("compact", True)
    assert onnx_bytes(proto) == onnx_bytes(proto)
    props = {p.key: p.value for p in onnx.load_from_string(onnx_bytes(proto)).metadata_props}
    assert json.loads(props["semantics"]) == {} and props["keep"] == "{}"


def test_a_file_asks_for_no_newer_onnx_than_its_opset_needs(written):
    """onnxruntime refuses a newer one, of which the graph uses nothing."""
    for form in ("uint8", "int32"):
        proto = written("compact", True, form)
        assert [o.version for o in proto.opset_import if o.domain == ""] == [18] and proto.ir_version == 8
