"""Biases carried as columns: fewer of them, and the same logits."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest

from export.bias_columns import WIDTH, carry_bias_columns
from export.compile import CompileOptions, compile_model
from export.onnx_writer import build_onnx
from infer.parity import compare, judge


@pytest.fixture(scope="module")
def plain(trained_like):
    """A compact model compiled to products."""
    return build_onnx(compile_model(trained_like(), CompileOptions(lower="gemm"))[0], "uint8", {})


def logits(proto, blocks, qindex):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"blocks": blocks, "qindex": qindex})[0]


def biases(proto) -> int:
    return sum(node.op_type == "Gemm" and len(node.input) == 3 for node in proto.graph.node)


def test_fewer_biases_and_the_same_logits(plain, real_blocks):
    blocks, qindex, _ = real_blocks
    before = plain.SerializeToString(deterministic=True)
    carried = carry_bias_columns(plain)
    assert biases(carried) < biases(plain)
    onnx.checker.check_model(carried, full_check=True)
    report = compare(logits(plain, blocks, qindex), logits(carried, blocks, qindex))
    assert judge(report, "fp32") == [], report.summary()
    assert plain.SerializeToString(deterministic=True) == before, "the model it was given stays as it was"


def test_rows_grow_by_whole_16_bytes_and_nothing_unused_is_kept(plain):
    carried = carry_bias_columns(plain)
    shapes = {i.name: tuple(i.dims) for i in carried.graph.initializer}
    assert WIDTH % 8 == 0
    grown = [name for name in shapes if name.endswith("_wide")]
    assert grown and all(shapes[n][1] - dict_of(plain)[n.removesuffix("_wide")][1] == WIDTH for n in grown)
    assert set(shapes) <= {name for node in carried.graph.node for name in node.input}


def dict_of(proto) -> dict[str, tuple[int, ...]]:
    return {i.name: tuple(i.dims) for i in proto.graph.initializer}
