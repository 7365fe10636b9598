"""export/artefacts/engine.py with the real TensorRT for RTX, which needs no GPU to build; skipped without it.

Loading an engine needs the GPU that it is for: what then follows is in tests/infer/test_tensorrt_session.py.
"""

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

import export.artefacts.engine
import export.engine_options
from bundle import open_bundle
from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from description import BLOCKS
from errors import ArtefactError
from export.artefacts.engine import build_engines, not_run, previous_engines
from export.engine_builder import EngineTask, build_engine
from export.engine_options import EngineOptions, engine_tools
from export.engine_types import PRODUCTS
from export.onnx_writer import build_onnx
from export.plan import ExportTask, Work
from files import sha256_of
from infer.sessions.cuda import Gpu
from infer.sessions.engine_record import EngineRecord
from infer.sessions.tensorrt_library import open_library
from tests.helpers import copy_of, rewrite, tree
from tests.superblocks import SUPERBLOCKS, pyramid, pyramid_model, superblocks_of
from tests.tensorrt_stub import make_tensorrt

SM = (86, 89, 120)
L4 = Gpu("NVIDIA L4", 89, "13.0")


def quiet(*_):
    pass


def build(root, files, options, before=None, progress=quiet):
    """The engines of a bundle's ONNX files, as an export of it would build or keep them."""
    run = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(task=BLOCKS)))
    task = ExportTask(Path("run"), Path("bundle"), engines=options)
    work = Work(task, run, root, before or root, None, quiet, progress, dict(files))
    return build_engines(work, engine_tools(options), previous_engines(work.before))


@pytest.fixture
def rtx():
    pytest.importorskip("tensorrt_rtx")
    return open_library("tensorrt-rtx")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """These tests are about a machine without a GPU, also where there is one; some put one in."""
    for module in (export.artefacts.engine, export.engine_options):
        monkeypatch.setattr(module, "local_gpu", lambda: None)


@pytest.fixture
def gpu(monkeypatch):
    def put_in(found):
        for module in (export.artefacts.engine, export.engine_options):
            monkeypatch.setattr(module, "local_gpu", lambda: found)

    return put_in


@pytest.fixture(scope="module")
def engines(engine_bundle):
    """Name to (entry, record) of every engine."""
    files = open_bundle(engine_bundle[0]).manifest.files
    return {name: (e, EngineRecord.of(name, e)) for name, e in files.items() if e.kind == "engine"}


# --- what an export with engines holds --------------------------------------------------------------------------------


def test_every_gpu_and_precision_has_an_engine_named_as_design_says(engines, rtx):
    expected = {f"model.{p}.sm{sm}.tensorrt-rtx-{rtx.release}.engine" for p in ("fp32", "fp16") for sm in SM}
    assert set(engines) == expected and rtx.release.count(".") == 2


def test_the_manifest_says_what_each_is_and_what_it_was_built_from(engines, engine_bundle, rtx, run_dir):
    root = engine_bundle[0]
    for name, (entry, record) in engines.items():
        assert entry.sha256 == sha256_of(root / name) and entry.input == "uint8" and "fold" in entry.steps
        assert name.startswith(f"model.{entry.precision}.sm{record.sm}.")
        assert (record.runtime, record.version, record.gpu) == ("tensorrt-rtx", rtx.version, "")
        assert (record.min_batch, record.opt_batch, record.max_batch) == (1, 8160, 65536)
        assert record.onnx == f"model.{entry.precision}.onnx"
        assert record.onnx_sha256 == sha256_of(root / record.onnx)
        assert record.rebuild.startswith(f"cli.py export --run {run_dir} --output-dir {root} --fold-bn")
        assert "--precision fp32,fp16 --engine tensorrt-rtx" in record.rebuild


def test_every_product_is_of_the_precision_asked_for_and_every_layer_was_read(engines, engine_bundle):
    for name, (entry, record) in engines.items():
        products = {kind: n for kind, n in record.layers.items() if kind.split()[0] in PRODUCTS}
        types = {kind.split()[1] for kind in products}
        assert types == {"float16" if entry.precision == "fp16" else "float32"}, name
        graph = onnx.load(engine_bundle[0] / record.onnx).graph
        wanted = sum(node.op_type in ("MatMul", "Gemm", "Conv") for node in graph.node)
        assert sum(products.values()) == wanted > 20
        assert record.engine_layers == {}, "no GPU, no inspector"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_that_sees_a_border_becomes_an_engine_of_the_same_types(wide_bundle_dir, rtx, tmp_path, precision):
    """The pooling in front of the first product is float16, as the products are."""
    root = copy_of(wide_bundle_dir, tmp_path / "wide")
    name = f"model.{precision}.onnx"
    files = {name: open_bundle(root).manifest.files[name]}
    options = EngineOptions("tensorrt-rtx", compute_capabilities=(89,))
    made = build(root, files, options)
    [record] = [EngineRecord.of(n, e) for n, e in made.items() if e.kind == "engine"]
    types = {kind.split()[1] for kind in record.layers if kind.split()[0] in (*PRODUCTS, "POOLING")}
    assert types == {"float16" if precision == "fp16" else "float32"}
    assert any(kind.startswith("POOLING") for kind in record.layers)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("form", ["uint8", "int32"])
def test_a_model_of_several_levels_becomes_an_engine_of_the_same_types(rtx, sample, precision, form):
    """In float16 all but what comes before the first product, which is the scaling of samples and their mean."""
    target = ONNXRUNTIME_CUDA if precision == "fp16" else ONNXRUNTIME_CPU
    with pyramid():
        compiled = compile_model(pyramid_model(*superblocks_of(sample), temperature="qindex"), target)[0]
    graph = build_onnx(compiled, form, {}, SUPERBLOCKS).SerializeToString()
    batches = EngineOptions("tensorrt-rtx").batches(SUPERBLOCKS)
    assert batches == (1, 510, 4096)
    built = build_engine(rtx, EngineTask(graph, "the engine", precision, batches, sm=89), quiet)
    products = {kind for layer in built.layers if layer.kind in PRODUCTS for _, kind in layer.outputs}
    assert products == {"float16" if precision == "fp16" else "float32"} and len(built.plan) > 10_000


def test_parity_that_could_not_be_run_is_said_never_left_out(engines, engine_bundle):
    for name, (entry, record) in engines.items():
        why = f"needs a GPU of SM {record.sm // 10}.{record.sm % 10}"
        assert entry.parity == {"8 bit": {"not run": why}, "reference": {"not run": why}}
        assert f"parity of {name} not run: {why}" in engine_bundle[1].out


def test_the_build_log_is_a_file_of_the_bundle(engines, engine_bundle):
    root, manifest = engine_bundle[0], open_bundle(engine_bundle[0]).manifest
    for name, (_, record) in engines.items():
        assert record.log == name.removesuffix(".engine") + ".log" and manifest.files[record.log].kind == "report"
        text = (root / record.log).read_text()
        assert "Engine generation completed" in text and "MATRIX_MULTIPLY" in text and record.version in text
        assert len(text.splitlines()) > sum(record.layers.values())


def test_an_engine_is_what_the_library_takes_for_one(engines, engine_bundle, rtx):
    """Its header is sound; without a GPU nothing more can be seen of it."""
    runtime = rtx.module.Runtime(rtx.module.Logger(rtx.module.Logger.INTERNAL_ERROR))
    malformed = int(rtx.module.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    for name in engines:
        plan = (engine_bundle[0] / name).read_bytes()
        assert not runtime.get_engine_validity(plan)[1] & malformed
    assert runtime.get_engine_validity(b"no engine" * 100)[1] & malformed


def test_engines_of_different_gpus_differ(engines):
    assert len({entry.sha256 for entry, _ in engines.values()}) == len(engines)


def test_progress_and_results_are_told(engine_bundle):
    ended = engine_bundle[1]
    assert ended.out.count("built model.fp") == 6 and "the types of" in ended.out
    assert "100 %" in ended.err and not ended.complaints
    assert set(ended.json["manifest"]["files"]) >= {p.name for p in engine_bundle[0].glob("*.engine")}


def test_a_bundle_with_engines_is_verified_where_they_cannot_run(engine_bundle, cli):
    ended = cli("verify", engine_bundle[0])
    assert ended.code == 0
    for name in engine_bundle[0].glob("*.engine"):
        assert f"{name.name} under tensorrt-rtx: not run here: " in ended.out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_both_trunks_and_both_input_forms_build(trained_like, rtx, trunk, precision):
    target = ONNXRUNTIME_CUDA if precision == "fp16" else ONNXRUNTIME_CPU
    compiled = compile_model(trained_like(trunk=trunk), target)[0]
    for form in ("uint8", "int32"):
        graph = build_onnx(compiled, form, {}, BLOCKS).SerializeToString()
        for sm in SM:
            built = build_engine(rtx, EngineTask(graph, "the engine", precision, (1, 8160, 65536), sm=sm), quiet)
            assert len(built.plan) > 1_000_000 and len(built.layers) > 100


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.fixture
def again(engine_bundle, tmp_path, monkeypatch):
    """Build engines anew in a copy of that bundle; gives the names that were built, and what came out."""
    root, new = copy_of(engine_bundle[0], tmp_path / "bundle"), tmp_path / "new"
    new.mkdir()
    for path in root.glob("*.onnx"):
        os.link(path, new / path.name)
    built = []

    def instead(library, task, progress):
        built.append(task.name)
        return dataclasses.make_dataclass("Built", ["plan", "layers", "engine_layers", "log"])(b"new", (), (), ())

    def run(change=lambda files: None, **options):
        files = {n: e for n, e in open_bundle(engine_bundle[0]).manifest.files.items() if e.kind == "onnx"}
        change(files)
        monkeypatch.setattr(export.artefacts.engine, "build_engine", instead)
        chosen = EngineOptions("tensorrt-rtx", **{"compute_capabilities": SM} | options)
        made = build(new, files, chosen, before=root)
        return built, made

    run.root, run.new = root, new
    return run


def test_what_is_there_is_kept(again, engines):
    before = tree(again.root)
    built, made = again()
    assert built == [] and tree(again.root) == before
    assert all((again.new / n).samefile(again.root / n) for n in made), "links, not copies"
    assert {n for n in made if n.endswith(".engine")} == set(engines)
    for name, (entry, record) in engines.items():
        kept = EngineRecord.of(name, made[name])
        assert made[name].sha256 == entry.sha256 and made[record.log].kind == "report"
        assert kept.layers == record.layers and "--engine tensorrt-rtx" in kept.rebuild


def test_other_options_build_everything_anew(again):
    assert len(again(opt_batch=1024)[0]) == 6


def test_another_graph_builds_its_engines_anew(again):
    def change(files):
        files["model.fp16.onnx"] = dataclasses.replace(files["model.fp16.onnx"], sha256="f" * 64)

    assert sorted(again(change)[0]) == sorted(p.name for p in again.root.glob("model.fp16.*.engine"))


def test_another_version_of_the_library_builds_everything_anew(again, monkeypatch):
    module = make_tensorrt("1.7.1.999", rtx=True)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    assert len(again()[0]) == 6


@pytest.mark.parametrize("what", ["engine", "log"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_file_is_not_kept_and_the_others_are(again, what, gone):
    path = next(again.root.glob(f"model.fp16.sm89.*.{what}"))
    path.unlink() if gone else rewrite(path, b"damaged")
    assert again()[0] == [f"{path.name.removesuffix(what)}engine"]


def test_the_int32_form_has_engines_of_its_own(again):
    built = again(forms=("uint8", "int32"), compute_capabilities=(89,))[0]
    assert sorted(n.partition(".sm89")[0] for n in built) == ["model.fp16.int32", "model.fp32.int32"]


def test_no_sound_bundle_no_engines_to_keep(tmp_path, engine_bundle):
    assert previous_engines(tmp_path) == {}
    (tmp_path / "manifest.json").write_text("{")
    assert previous_engines(tmp_path) == {}
    values = json.loads((engine_bundle[0] / "manifest.json").read_text())
    next(v for n, v in values["files"].items() if n.endswith(".engine"))["engine"] = {"sm": 1}
    shutil.copytree(engine_bundle[0], tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").write_text(json.dumps(values))
    assert previous_engines(tmp_path / "copy") == {}


# --- what is refused --------------------------------------------------------------------------------------------------


def task(root, onnx_name, precision):
    return EngineTask((root / onnx_name).read_bytes(), f"model.{precision}.engine", precision, (1, 64, 256), sm=89)


def test_an_fp32_graph_given_as_fp16_is_refused_with_its_layers(engine_bundle, rtx):
    with pytest.raises(ArtefactError, match=r"was to be fp16, but of its layers \d+ are not: .*float32") as error:
        build_engine(rtx, task(engine_bundle[0], "model.fp32.onnx", "fp16"), quiet)
    assert "MATRIX_MULTIPLY float32" in error.value.message or "CONVOLUTION float32" in error.value.message


def test_an_fp16_graph_given_as_fp32_is_refused_with_its_layers(engine_bundle, rtx):
    with pytest.raises(ArtefactError, match=r"was to be fp32, but of its layers \d+ are not: .*float16"):
        build_engine(rtx, task(engine_bundle[0], "model.fp16.onnx", "fp32"), quiet)


def test_one_product_left_in_float32_is_found_in_a_real_graph(engine_bundle, rtx):
    """The last product between two casts, as a mixed-precision tool would leave it."""
    proto = onnx.load(engine_bundle[0] / "model.fp16.onnx")
    product = [node for node in proto.graph.node if node.op_type in ("MatMul", "Gemm")][-1]
    at = list(proto.graph.node).index(product)
    casts = []
    for index, name in enumerate(product.input):
        casts.append(onnx.helper.make_node("Cast", [name], [f"{name}_32"], to=onnx.TensorProto.FLOAT))
        product.input[index] = f"{name}_32"
    result = product.output[0]
    product.output[0] = f"{result}_32"
    proto.graph.node.insert(
        at + 1, onnx.helper.make_node("Cast", [f"{result}_32"], [result], to=onnx.TensorProto.FLOAT16)
    )
    for cast in casts:
        proto.graph.node.insert(at, cast)
    wrong = EngineTask(proto.SerializeToString(), "the engine", "fp16", (1, 64, 256), sm=89)
    with pytest.raises(ArtefactError, match=rf"{product.name} \(MATRIX_MULTIPLY float32\)"):
        build_engine(rtx, wrong, quiet)


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_what_is_no_graph_is_refused(engine_bundle, rtx, content):
    if content is None:
        content = (engine_bundle[0] / "model.fp16.onnx").read_bytes()[:100_000]
    with pytest.raises(ArtefactError, match=r"refuses the graph of the engine: |the engine holds no product"):
        build_engine(rtx, EngineTask(content, "the engine", "fp16", (1, 64, 256), sm=89), quiet)


def test_ctrl_c_during_a_real_build_raises_and_leaves_nothing(engine_bundle, rtx, tmp_path):
    root = copy_of(engine_bundle[0], tmp_path / "bundle")
    files = {n: e for n, e in open_bundle(root).manifest.files.items() if n == "model.fp16.onnx"}
    for path in root.glob("*.sm89.*"):
        path.unlink()
    before, heard = tree(root), []

    def interrupt(done, total, text):
        heard.append(done)
        if len(heard) == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(root, files, EngineOptions("tensorrt-rtx", compute_capabilities=(89,)), progress=interrupt)
    assert len(heard) >= 2 and tree(root) == before


def test_a_missing_library_is_found_before_the_old_bundle_is_touched(cli, engine_bundle, run_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    before = tree(engine_bundle[0])
    ended = cli("export", "--run", run_dir, "--output-dir", engine_bundle[0], "--engine", "tensorrt")
    assert ended.code == 4 and "tensorrt is not installed" in ended.err and tree(engine_bundle[0]) == before


def test_the_full_tensorrts_engine_is_bound_to_its_gpu_and_read_back(engine_bundle, tmp_path, gpu, monkeypatch):
    """Through the stub: the same code path, with the GPU's name in the record and the inspector's types beside it."""
    gpu(L4)
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.9.0.34"))
    root = copy_of(engine_bundle[0], tmp_path / "bundle")
    files = {n: e for n, e in open_bundle(root).manifest.files.items() if n == "model.fp16.onnx"}
    options = EngineOptions("tensorrt", hardware_compatible="same-compute-capability")
    made = build(root, files, options, before=tmp_path / "nothing")
    name = "model.fp16.sm89.tensorrt-10.9.0.engine"
    record = EngineRecord.of(name, made[name])
    assert (record.gpu, record.version, record.hardware_compatible) == (L4.name, "10.9.0.34", "same-compute-capability")
    assert record.engine_layers == {"gemm float32": 1, "kgen float32": 1}
    assert "layers of the built engine" in (root / record.log).read_text()
    assert record.rebuild.endswith("--hardware-compatible same-compute-capability")


def test_parity_is_run_where_the_engine_runs(engines, gpu):
    name = next(n for n in engines if ".sm89." in n)
    assert not_run(name, engines[name][0]) == "needs a GPU of SM 8.9"
    gpu(Gpu("NVIDIA H200", 90, "13.0"))
    assert "this is NVIDIA H200 of 9.0" in not_run(name, engines[name][0])
    gpu(L4)
    assert not_run(name, engines[name][0]) == ""
