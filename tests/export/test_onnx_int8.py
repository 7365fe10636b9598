"""INT8 by Q/DQ: what is quantised, by hand and by ONNX Runtime's own byte kernels, and what the labels become."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import export.run
from bundle import open_bundle
from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU
from data.dataset import load_split
from description import BLOCKS
from errors import MissingComponentError, ParityError, UsageError
from export.onnx_int8 import (
    TOP_WEIGHT,
    calibrate,
    quantisable,
    quantise_graph,
    rounded_rows,
    row_parameters,
    sample_feeds,
    weight_values,
)
from export.onnx_writer import build_onnx
from export.plan import ExportTask
from export.run import export_run
from infer.open import open_session
from infer.parity import compare, judge
from infer.session import SessionOptions
from infer.sessions.torch_session import reference_prediction
from tests.helpers import make_calibrated
from train.checkpoint import open_run, save_run
from train.model import ModelConfig, PartitionModel


def run(proto, feeds, optimised=True):
    options = onnxruntime.SessionOptions()
    if not optimised:  # every Q and DQ as it stands, in float32: nothing is fused into byte kernels
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def two_products(rng, rows=200, width=200, out=150, bias=True):
    """x ─► Gemm ─► ReLU ─► Gemm: the second is to be quantised."""
    arrays = {
        "first": rng.normal(0, 0.1, (rows, width)),
        "second": rng.normal(0, 1, (width, out)) * 10.0 ** rng.uniform(-2, 1, out),
        "bias": rng.normal(0, 1, out),
    }
    initializers = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "second", *(["bias"] if bias else [])], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", out])],
        initializers,
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10), arrays


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("optimised", [True, False])
def test_a_product_is_what_bytes_by_hand_give(bias, optimised):
    rng = np.random.default_rng(0)
    proto, arrays = two_products(rng, bias=bias)
    x = rng.normal(0, 1, (64, 200)).astype(np.float32)
    ranges = calibrate(proto, [{"x": x[:40]}, {"x": x[40:]}])
    row = np.maximum(x @ arrays["first"].astype(np.float32), 0)
    assert ranges == {"b": (0.0, pytest.approx(row.max(), rel=1e-5))}
    found = run(quantise_graph(proto, ranges), {"x": x}, optimised)

    scale = np.float32(ranges["b"][1] / 255)
    second = arrays["second"].astype(np.float32)
    scales = np.abs(second).max(0) / np.float32(63)
    bytes_ = np.clip(np.round(row / scale), 0, 255).astype(np.int64)
    weights = np.clip(np.round(second / scales), -63, 63).astype(np.int64)
    total = bytes_ @ weights
    if bias:
        total = total + np.round(arrays["bias"] / (scale * scales)).astype(np.int64)
    by_hand = total * (scale * scales)
    # A row's value on the edge of two bytes may round the other way: one unit of the weights.
    np.testing.assert_allclose(found, by_hand, atol=1.01 * scale * np.abs(second).max())
    assert np.median(np.abs(found - by_hand) / np.abs(by_hand).max(0)) < 1e-5
    plain = run(proto, {"x": x})
    assert not np.allclose(found, plain, rtol=1e-4) and np.corrcoef(found.ravel(), plain.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("span", [(0.0, 3.0), (-1.0, 3.0), (-2.0, 0.0), (0.5, 2.0), (0.0, 0.0), (-1e-9, 1e-9)])
def test_zero_is_exact_and_the_range_is_covered(span):
    scale, zero = row_parameters(span)
    assert scale > 0 and zero.dtype == np.uint8
    low, high = (0 - float(zero)) * float(scale), (255 - float(zero)) * float(scale)
    assert low <= span[0] + scale / 2 and high >= span[1] - scale / 2


def test_weights_fit_seven_bits_by_output():
    matrix = np.array([[1.0, -200.0, 0.0], [-0.51, 50.0, 0.0]], np.float32)
    values, scales = weight_values(matrix)
    assert values.dtype == np.int8 and values.tolist() == [[63, -63, 0], [-32, 16, 0]]
    np.testing.assert_allclose(scales, [1 / 63, 200 / 63, 1], rtol=1e-6)
    assert np.iinfo(np.int16).max >= 2 * 255 * TOP_WEIGHT, "two products in 16 bits, as on CPUs without VNNI"


def test_a_missing_range_is_an_error():
    proto, _ = two_products(np.random.default_rng(0))
    with pytest.raises(KeyError, match="b"):
        quantise_graph(proto, {})


@pytest.fixture(scope="module")
def quiet_run(real_blocks, tmp_path_factory):
    """A run whose logits are small. Random layers are chaotic, unlike trained ones: at a standard deviation of 1 they
    miss the int8 row, which this run keeps to."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("quiet")
    blocks, qindex = (torch.from_numpy(a[:512]) for a in real_blocks[:2])
    save_run(root, make_calibrated(PartitionModel(ModelConfig()), 0, blocks, qindex, 0.2), {})
    return root


@pytest.fixture(scope="module")
def graphs(quiet_run):
    """A compact model's graph, its int8 twin, and the model."""
    model = open_run(quiet_run).model
    plain = build_onnx(compile_model(model, ONNXRUNTIME_CPU, "gemm")[0], "uint8", {"keep": "{}"}, BLOCKS)
    return plain, quantise_graph(plain, calibrate(plain, sample_feeds("uint8", count=512))), model


def test_large_products_are_quantised_and_the_first_is_not(graphs):
    plain, eight, _ = graphs
    chosen = {n.output[0] for n in quantisable(plain)}
    assert len(chosen) > 15
    sizes = {i.name: np.prod(i.dims) for i in plain.graph.initializer}
    products = [n for n in plain.graph.node if n.op_type in ("Gemm", "MatMul")]
    assert products[0].output[0] not in chosen and sizes[products[0].input[1]] > 25_000
    left = [n for n in products[1:] if n.output[0] not in chosen and n.op_type == "Gemm"]
    assert left and all(sizes[n.input[1]] < 25_000 for n in left)
    made_by = {n.output[0]: n.op_type for n in eight.graph.node}
    for node in eight.graph.node:
        if node.output[0] in chosen:
            assert {made_by[name] for name in node.input} == {"DequantizeLinear"}
    rounded = [n.input[0] for n in eight.graph.node if n.op_type == "QuantizeLinear"]
    assert sorted(rounded) == rounded_rows(plain), "a row that two products read is converted once"
    assert {p.key for p in eight.metadata_props} == {"keep"}


def test_onnxruntime_multiplies_bytes(graphs, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "o.onnx"), 3
    onnxruntime.InferenceSession(graphs[1].SerializeToString(), options, providers=["CPUExecutionProvider"])
    counts = Counter(n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node)
    assert sum(counts[name] for name in ("QGemm", "QLinearMatMul", "MatMulIntegerToFloat")) == len(
        quantisable(graphs[0])
    )


def test_the_labels_stay_and_byte_kernels_compute_what_the_graph_says(graphs, real_blocks):
    _, eight, model = graphs
    blocks, qindex, label = real_blocks
    feeds = {"blocks": blocks, "qindex": qindex}
    found, slow = run(eight, feeds), run(eight, feeds, optimised=False)
    expected = reference_prediction(model, blocks, qindex, 8).logits
    report = compare(expected, found, qindex, label=label)
    assert judge(report, "int8") == [], report.summary()
    assert np.median(np.abs(found - expected)) > 1e-4, "it is not float32"
    assert compare(slow, found, qindex).percentiles["50"] < report.percentiles["50"] / 10


@pytest.mark.parametrize("form", ["uint8", "int32"])
def test_calibration_is_on_the_training_split_alone(sample, form):
    known = {b.tobytes() for b in load_split(sample, "train").blocks}
    feeds = list(sample_feeds(form, count=1500))
    assert [len(f["blocks"]) for f in feeds] == [1024, 476]
    assert all(f["blocks"].dtype == form and f["qindex"].dtype == np.int32 for f in feeds)
    assert all(b.tobytes() in known for f in feeds for b in f["blocks"].astype(np.uint8))
    assert all(("bit_depth" in f) == (form == "int32") for f in feeds)


@pytest.fixture(scope="module")
def int8_bundle(quiet_run, tmp_path_factory):
    root, whole = tmp_path_factory.mktemp("int8"), export.run.reference_set
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.run, "reference_set", lambda model, count=None, seed=0: whole(model, 512, seed))
        export_run(ExportTask(quiet_run, root, precisions=("int8",)), lambda _: None)
    return open_bundle(root)


def test_an_int8_file_is_one_of_the_bundle_with_its_certificate(int8_bundle, real_blocks):
    files = int8_bundle.manifest.files
    entry = files["model.int8.onnx"]
    assert (entry.kind, entry.precision, entry.steps[-1]) == ("onnx", "int8", "int8") and "lower-gemm" in entry.steps
    assert {c["tolerance"] for c in entry.parity.values()} == {"int8"}
    blocks, qindex, _ = real_blocks
    session = open_session(int8_bundle, "onnxruntime-cpu", SessionOptions(precision="int8"))
    assert session.info.file == "model.int8.onnx" and session.info.precision == "int8"
    deep = open_session(int8_bundle, "onnxruntime-cpu", SessionOptions(10, "int8"))
    one, other = session.predict(blocks, qindex), deep.predict(blocks.astype(np.uint16) * 4, qindex)
    assert (one.partition == other.partition).mean() > 0.97


def test_an_int8_file_is_for_cpus(int8_bundle):
    with pytest.raises(MissingComponentError, match=r"has no int8|no CUDA GPU is visible"):
        open_session(int8_bundle, "onnxruntime-cuda", SessionOptions(precision="int8"))


def test_the_ranges_are_kept_and_no_blocks(int8_bundle):
    entry = int8_bundle.manifest.files["model.int8.calibration.json"]
    assert (entry.kind, entry.precision) == ("calibration", "int8")
    values = json.loads(int8_bundle.path("model.int8.calibration.json").read_text())
    assert values["pairs"] == 4096 and values["ranges"].keys() == {"uint8", "int32"}
    for ranges in values["ranges"].values():
        assert len(ranges) > 10 and all(low <= 0 <= high for low, high in ranges.values())
    assert len(int8_bundle.path("model.int8.calibration.json").read_bytes()) < 10_000


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ({"precisions": ("int8",), "fold": False}, UsageError, "needs a folded model"),
        ({"precisions": ("fp16",), "fold": False}, UsageError, "needs a folded model"),
        ({"precisions": ("int8",), "lower": "conv"}, UsageError, "leaves convolutions"),
        ({"precisions": ("fp32", "int8"), "package": "cpu"}, UsageError, "of ONNX files and blobs alone"),
        ({"precisions": ("int4",)}, MissingComponentError, "precision int4"),
    ],
)
def test_what_cannot_be_int8_is_refused(run_dir, tmp_path, task, error, message):
    with pytest.raises(error, match=message):
        export_run(ExportTask(run_dir, tmp_path / "out", **task), lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_that_bytes_do_not_keep_is_not_exported(run_dir, tmp_path, monkeypatch):
    whole = export.run.reference_set
    monkeypatch.setattr(export.run, "reference_set", lambda model, count=None, seed=0: whole(model, 512, seed))
    with pytest.raises(ParityError, match=r"model\.int8\.onnx: argmax agreement"):
        export_run(ExportTask(run_dir, tmp_path, precisions=("int8",)), lambda _: None)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.slow
def test_every_labelled_pair_of_the_sample_keeps_to_the_int8_row(quiet_run, tmp_path):
    """All 92,716 pairs; export_run would raise."""
    manifest = export_run(ExportTask(quiet_run, tmp_path, precisions=("int8",)), lambda _: None)
    report = manifest.files["model.int8.onnx"].parity["8 bit"]["report"]
    assert report["count"] == 92_716 and report["log_loss"] is not None
