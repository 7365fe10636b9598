"""The Triton model repository: parsed by Triton's published schema, and held against the files that it serves."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace

import onnx
import pytest
from google.protobuf import text_format

from bundle import Bundle, BundleFile, open_bundle
from errors import MissingComponentError, OutputError
from export.triton import Batching, write_repository
from infer.sessions.engine_record import EngineRecord
from partition import PARTITION_NAMES

RECORD = EngineRecord(
    runtime="tensorrt",
    version="10.13.0",
    sm=90,
    gpu="NVIDIA H200",
    version_compatible=False,
    hardware_compatible="",
    min_batch=1,
    opt_batch=8160,
    max_batch=20_000,
    onnx="model.fp32.onnx",
    onnx_sha256="",
    inputs="",
    layers={},
    engine_layers={},
    log="",
    rebuild="",
)


@pytest.fixture(scope="module")
def schema():
    """Triton's model_config.proto as tritonclient ships it; that module alone, since its package wants grpc."""
    folder = importlib.util.find_spec("tritonclient").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("triton_model_config", f"{folder}/grpc/model_config_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write(bundle_dir, tmp_path):
    """Writes a repository of the bundle, its manifest's files changed; returns the root, names, and what was said."""

    def call(files=None, **options):
        bundle, heard = open_bundle(bundle_dir), []
        manifest = bundle.manifest
        bundle = Bundle(bundle_dir, replace(manifest, files=manifest.files if files is None else files))
        names = write_repository(bundle, tmp_path / "models", heard.append, **options)
        return tmp_path / "models", names, heard

    return call


def as_onnx(precision="fp32", form="uint8"):
    return BundleFile("", "onnx", precision, form)


def as_engine(**changes):
    return BundleFile("", "engine", "fp16", "uint8", engine=asdict(replace(RECORD, **changes)))


def parse(schema, folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def test_a_model_is_what_tritons_schema_and_the_file_say(schema, write, bundle_dir):
    root, names, heard = write()
    assert names == ["av1_partition_fp32_onnx"] == [p.name for p in root.iterdir()]
    folder = root / names[0]
    assert sorted(p.name for p in folder.rglob("*")) == ["1", "config.pbtxt", "model.onnx", "partitions.txt"]
    assert (folder / "1" / "model.onnx").read_bytes() == (bundle_dir / "model.fp32.onnx").read_bytes()
    assert (folder / "partitions.txt").read_text().split() == list(PARTITION_NAMES)
    config = parse(schema, folder)
    assert config.name == names[0] and config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == 65_280
    assert list(config.dynamic_batching.preferred_batch_size) == [8160, 16_320, 32_640, 65_280]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [g.kind for g in config.instance_group] == [schema.ModelInstanceGroup.KIND_AUTO]
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert {o.name: o.label_filename for o in config.output if o.label_filename} == {"probability": "partitions.txt"}
    assert any("model.fp32.int32.onnx left out: its bit_depth" in line for line in heard)


@pytest.mark.parametrize("which", ["bundle_dir", "wide_bundle_dir"])
def test_tensors_are_the_graphs_without_the_batch(schema, tmp_path, request, which):
    root = request.getfixturevalue(which)
    names = write_repository(open_bundle(root), tmp_path, lambda _: None)
    config, graph = parse(schema, tmp_path / names[0]), onnx.load(root / "model.fp32.onnx").graph
    types = {"UINT8": schema.TYPE_UINT8, "INT32": schema.TYPE_INT32, "FLOAT": schema.TYPE_FP32}
    for described, values in ((config.input, graph.input), (config.output, graph.output)):
        expected = {}
        for value in values:
            tensor = value.type.tensor_type
            kind = types[onnx.TensorProto.DataType.Name(tensor.elem_type)]
            expected[value.name] = kind, [d.dim_value for d in tensor.shape.dim][1:]
        found = {t.name: (t.data_type, list(t.reshape.shape if t.HasField("reshape") else t.dims)) for t in described}
        assert found == expected
        assert all(list(t.dims) for t in described), "Triton wants at least one dimension beside the batch"


def test_an_engine_is_a_plan_within_its_profile(schema, write):
    root, names, heard = write({"model.safetensors": as_engine()})
    assert names == ["av1_partition_fp16_tensorrt_sm90"]
    config = parse(schema, root / names[0])
    assert config.platform == "tensorrt_plan" and config.max_batch_size == 20_000
    assert list(config.dynamic_batching.preferred_batch_size) == [8160, 16_320]
    assert [g.kind for g in config.instance_group] == [schema.ModelInstanceGroup.KIND_GPU]
    assert not config.HasField("optimization")
    assert (root / names[0] / "1" / "model.plan").exists() and len(heard) == 1


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "KIND_AUTO"), ("fp16", "KIND_GPU"), ("int8", "KIND_CPU")])
def test_where_a_precision_runs(schema, write, precision, kind):
    root, names, _ = write({"model.fp32.onnx": as_onnx(precision)})
    config = parse(schema, root / names[0])
    assert names == [f"av1_partition_{precision}_onnx"]
    assert schema.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == kind
    assert config.HasField("optimization") == (precision != "int8")


def test_small_batches(schema, write):
    root, names, _ = write(batching=Batching(largest=1, frames=(2, 4), delay_us=7))
    config = parse(schema, root / names[0])
    assert config.max_batch_size == 8160 and not config.dynamic_batching.preferred_batch_size
    assert config.HasField("dynamic_batching") and config.dynamic_batching.max_queue_delay_microseconds == 7


LEFT_OUT = {
    "int32 form": (as_onnx(form="int32"), "bit_depth"),
    "RTX engine": (as_engine(runtime="tensorrt-rtx"), "no backend for tensorrt-rtx"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_triton_cannot_serve_is_said_and_alone_is_an_error(write, tmp_path, case):
    entry, reason = LEFT_OUT[case]
    with pytest.raises(MissingComponentError, match="Triton"):
        write({"model.fp32.onnx": entry})
    assert not (tmp_path / "models").exists()
    _, names, heard = write({"model.fp32.int32.onnx": entry, "model.fp32.onnx": as_onnx()})
    assert names == ["av1_partition_fp32_onnx"] and reason in heard[0]


def test_of_two_engines_for_one_gpu_the_second_is_left_out(write):
    _, names, heard = write({"model.safetensors": as_engine(), "reference.npz": as_engine(version="11.1.0")})
    assert len(names) == 1 and "is there already" in heard[1]


def test_models_are_replaced_and_others_left_alone(write, tmp_path):
    for path in ("av1_partition_fp32_onnx/2/model.onnx", "other/1/model.onnx"):
        (tmp_path / "models" / path).parent.mkdir(parents=True)
        (tmp_path / "models" / path).write_bytes(b"old")
    root, _, _ = write()
    assert not (root / "av1_partition_fp32_onnx" / "2").exists() and (root / "other/1/model.onnx").exists()


def test_a_repository_that_cannot_be_written(write, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        write()


def test_the_schema_refuses_what_is_no_field(schema):
    with pytest.raises(text_format.ParseError):
        text_format.Parse('name: "a" batch_limit: 3', schema.ModelConfig())


def test_the_command_line_writes_it(cli, run_dir, tmp_path, small_reference):
    words = ("export", "--run", run_dir, "--output-dir", tmp_path / "bundle", "--fold-bn")
    ended = cli(*words, "--triton", tmp_path / "models")
    assert ended.code == 0 and not ended.complaints
    assert f"wrote {tmp_path / 'models' / 'av1_partition_fp32_onnx'}: model.fp32.onnx" in ended.out
    assert (tmp_path / "models" / "av1_partition_fp32_onnx" / "config.pbtxt").exists()
