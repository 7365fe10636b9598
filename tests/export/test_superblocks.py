"""Models of several levels: what the compiler does to them, and their files, level by level."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bundle import open_bundle
from compiler.compile import compile_model
from compiler.targets import CUBLASLT, ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from errors import MissingComponentError
from export.artefacts.onnx import semantics
from export.onnx_writer import build_onnx
from export.plan import ExportTask
from export.run import export_run
from export.triton import write_repository
from infer.sessions.torch_session import reference_prediction
from tests.superblocks import SUPERBLOCKS, pyramid, pyramid_model, superblocks_of
from train.checkpoint import save_run
from train.freeze import batch_norms

SIZES = (64, 32, 16, 8)


@pytest.fixture(scope="module", autouse=True)
def _pyramid():
    with pyramid():
        yield


@pytest.fixture(scope="module")
def pairs(sample):
    return superblocks_of(sample)


@pytest.fixture(scope="module", params=["series", "lora", "none"])
def model(request, pairs):
    return pyramid_model(*pairs, adapters=request.param, temperature="qindex")


@pytest.fixture(scope="module")
def graphs(pairs):
    """Factory of ONNX graphs of one model, and the model."""
    model, made = pyramid_model(*pairs), {}

    def make(precision, form="uint8"):
        if (precision, form) not in made:
            target = {"fp32": ONNXRUNTIME_CPU, "fp16": ONNXRUNTIME_CUDA}[precision]
            made[precision, form] = build_onnx(compile_model(model, target)[0], form, {}, SUPERBLOCKS)
        return made[precision, form]

    make.model = model
    return make


def run(proto, **feeds):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(SUPERBLOCKS.output_names, session.run(list(SUPERBLOCKS.output_names), feeds), strict=True))


def test_every_step_is_exact(model, pairs):
    blocks, qindex = map(torch.from_numpy, pairs)
    found = {}

    def observe(step, made, arguments):
        assert arguments[0].shape == (1, 64, 64) and arguments[0].dtype == torch.uint8
        found[step] = made(blocks, qindex)

    _, steps = compile_model(model, ONNXRUNTIME_CPU, observe=observe)
    assert steps == ("fold", "tabulate", "prune")
    expected = found.pop("trained")
    assert expected.std(0).mean() > 0.5, "logits that hardly move would prove nothing"
    for step, got in found.items():
        assert (got - expected).abs().max() < 1e-4, step


def test_convolutions_stay_convolutions_and_taps_that_meet_padding_go(model):
    compiled, _ = compile_model(model, ONNXRUNTIME_CPU, "gemm")
    assert not batch_norms(compiled)
    last = compiled.trunk.blocks[3]
    assert compiled.trunk.blocks[0].first.kernel_size == (3, 3) and last.first.kernel_size == (1, 1)
    assert isinstance(last.first, torch.nn.Conv2d)


@pytest.mark.parametrize("target", [ONNXRUNTIME_CUDA, CUBLASLT], ids=lambda t: t.name)
@pytest.mark.parametrize("depth", [8, 10])
def test_float16_begins_at_the_first_product(model, pairs, target, depth):
    blocks, qindex = torch.from_numpy(pairs[0].astype(np.int32) << (depth - 8)), torch.from_numpy(pairs[1])
    blocks = blocks.to(torch.uint8) if depth == 8 else blocks
    compiled, steps = compile_model(model, target)
    assert steps == ("fold", "tabulate", "prune", "fp16")
    with torch.no_grad():
        expected = model(blocks, qindex, depth)
        for given in (depth, torch.tensor(depth, dtype=torch.int32)):
            got = compiled(blocks, qindex, given)
            assert got.dtype is torch.float16
            assert (got.float() - expected).abs().mean() < 5e-3 and (got.float() - expected).abs().max() < 0.1


def test_in_float16_the_mean_is_taken_of_float32(graphs):
    """Texture is what is left of samples once their mean is gone; rounded before that, it would be noise."""
    proto = onnx.shape_inference.infer_shapes(graphs("fp16"))
    kinds = {v.name: v.type.tensor_type.elem_type for v in proto.graph.value_info}
    first = next(n for n in proto.graph.node if n.op_type == "Conv")
    cast = next(n for n in proto.graph.node if first.input[0] in n.output)
    assert cast.op_type == "Cast" and kinds[cast.input[0]] == onnx.TensorProto.FLOAT
    convolutions = [n for n in proto.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert convolutions and {kinds[n.output[0]] for n in convolutions} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("form", ["uint8", "int32"])
def test_a_graph_answers_level_by_level(graphs, pairs, form):
    blocks, qindex = pairs
    extra = {} if form == "uint8" else {"bit_depth": np.array(8, np.int32)}
    expected = reference_prediction(graphs.model, blocks, qindex, 8)
    logits, probability = (
        SUPERBLOCKS.split_logits(expected.logits),
        SUPERBLOCKS.split_probability(expected.probability),
    )
    for count in (1, 3, len(blocks)):
        found = run(graphs("fp32", form), blocks=blocks[:count].astype(form), qindex=qindex[:count], **extra)
        for level in SUPERBLOCKS.levels:
            size, nodes = level.node_size, SUPERBLOCKS.nodes_of(level)
            assert found[f"logits_{size}"].shape == (count, nodes, level.logits)
            assert np.abs(found[f"logits_{size}"] - logits[size][:count]).max() < 1e-3
            assert np.abs(found[f"probability_{size}"] - probability[size][:count]).max() < 1e-3
            ids = np.array(level.types)[found[f"probability_{size}"].argmax(2)]
            assert found[f"partition_{size}"].dtype == np.int32 and np.array_equal(found[f"partition_{size}"], ids)


def test_what_tensorrt_refuses_is_not_in_it(graphs):
    refused = {"SplitToSequence", "SequenceAt", "SequenceConstruct", "ConcatFromSequence", "BitShift", "Mod"}
    for precision in ("fp32", "fp16"):
        graph = graphs(precision).graph
        assert not {n.op_type for n in graph.node} & refused
        assert {n.op_type for n in graph.node if "blocks" in n.input} == {"Cast"}


@pytest.fixture(scope="module")
def run_dir(pairs, tmp_path_factory):
    root = tmp_path_factory.mktemp("pyramid")
    save_run(root, pyramid_model(*pairs), {"evaluation": {"keep": {}}})
    return root


@pytest.mark.usefixtures("small_reference")
def test_a_bundle_is_certified_and_served_level_by_level(run_dir, tmp_path):
    export_run(ExportTask(run_dir, tmp_path / "b", forms=("uint8",)), lambda _: None)
    bundle = open_bundle(tmp_path / "b")
    entry = bundle.manifest.files["model.fp32.onnx"]
    assert set(entry.parity) == {f"{key}_{size}" for key in ("8 bit", "reference") for size in SIZES}
    assert json.loads(json.dumps(semantics(SUPERBLOCKS))) == bundle.manifest.semantics
    assert (
        bundle.manifest.semantics["partition_8"] == "int32 [N, 64], the likeliest partition id, nodes in raster order"
    )
    (name,) = write_repository(bundle, tmp_path / "models", lambda _: None)
    text = (tmp_path / "models" / name / "config.pbtxt").read_text()
    assert "max_batch_size: 4080" in text and "preferred_batch_size: [ 510, 1020, 2040, 4080 ]" in text
    for output, dims in (("logits_64", "1, 14"), ("probability_8", "64, 4"), ("partition_16", "16")):
        assert f'name: "{output}"' in text and f"dims: [ {dims} ]" in text
    assert not (tmp_path / "models" / name / "partitions.txt").exists()


@pytest.mark.parametrize(
    ("changes", "words"), [({"precisions": ("int8",)}, "keep their convolutions"), ({"blob": True}, "answer 85")]
)
def test_what_needs_one_node_a_block_is_refused_first(run_dir, tmp_path, changes, words):
    with pytest.raises(MissingComponentError, match=words):
        export_run(ExportTask(run_dir, tmp_path / "b", **changes), lambda _: None)
    assert not (tmp_path / "b").exists()
