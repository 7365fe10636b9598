"""export/engine_builder.py against a stub of the full TensorRT, which cannot be installed here; the real TensorRT for
RTX builds in test_engines.py."""

import signal
import threading

import pytest

from errors import ArtefactError, MissingComponentError
from export.engine_builder import EngineTask, build_engine
from infer.sessions.tensorrt_library import Library
from tests.tensorrt_stub import PARSED, make_tensorrt

TASK = EngineTask(b"onnx", "model.fp16.engine", "fp16", (1, 64, 256))


def build(module, progress=lambda share: None, **task):
    values = {name: getattr(TASK, name) for name in TASK.__dataclass_fields__} | task
    return build_engine(Library("tensorrt", module), EngineTask(**values), progress)


def test_a_build_gives_the_plan_its_layers_and_the_log():
    built = build(make_tensorrt())
    assert built.plan == b"plan of the stub" and built.log == ("INFO: Engine generation completed",)
    assert [x.name for x in built.layers] == [name for name, *_ in PARSED] and built.engine_layers == ()


def test_float32_means_float32_and_the_profile_is_the_tasks():
    module = make_tensorrt()
    build(module)
    (config,) = module.asked.configs
    assert module.BuilderFlag.TF32 not in config._flags and not config._flags
    assert config.profiling_verbosity is module.ProfilingVerbosity.DETAILED, "or the inspector tells names alone"
    (profile,) = config._profiles
    assert profile._shapes == {
        "blocks": [(1, 16, 16), (64, 16, 16), (256, 16, 16)],
        "qindex": [(1,), (64,), (256,)],
    }


def test_networks_are_strongly_typed_by_flag_where_there_is_one_and_always_elsewhere():
    old, new = make_tensorrt("10.3.0"), make_tensorrt("11.4.1", without=["NetworkDefinitionCreationFlag"])
    build(old)
    build(new)
    assert (old.asked.creation_flags, new.asked.creation_flags) == ([1], [0])


def test_a_version_without_the_tf32_flag_is_left_alone():
    module = make_tensorrt(without=["BuilderFlag.TF32"])
    build(module)
    (config,) = module.asked.configs
    assert not config._flags


@pytest.mark.parametrize(
    ("level", "name"), [("ampere-plus", "AMPERE_PLUS"), ("same-compute-capability", "SAME_COMPUTE_CAPABILITY")]
)
def test_compatibility_is_asked_of_the_builder(level, name):
    module = make_tensorrt()
    build(module, version_compatible=True, hardware_compatible=level)
    (config,) = module.asked.configs
    assert config._flags == {module.BuilderFlag.VERSION_COMPATIBLE}
    assert config.hardware_compatibility_level is module.HardwareCompatibilityLevel[name]


def test_without_asking_an_engine_is_for_one_version_and_one_gpu():
    module = make_tensorrt()
    build(module)
    assert module.asked.configs[0].hardware_compatibility_level is None


def test_a_level_that_this_version_has_not_is_missing():
    module = make_tensorrt("10.3.0", without=["HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"])
    with pytest.raises(MissingComponentError, match=r"10\.3\.0 has no hardware compatibility 'same-compute") as error:
        build(module, hardware_compatible="same-compute-capability")
    assert "newer TensorRT" in error.value.hint


def test_a_timing_cache_is_read_if_it_is_there_and_written_back(tmp_path):
    path = tmp_path / "timing.cache"
    for expected in (b"+measured", b"+measured+measured"):
        build(make_tensorrt(), timing_cache=path)
        assert path.read_bytes() == expected


def test_a_timing_cache_of_another_gpu_is_refused_and_kept(tmp_path):
    path = tmp_path / "timing.cache"
    path.write_bytes(b"of another GPU")
    with pytest.raises(ArtefactError, match="no timing cache of this GPU"):
        build(make_tensorrt(), timing_cache=path)
    assert path.read_bytes() == b"of another GPU"


@pytest.mark.parametrize("compatible", [False, True])
def test_a_built_engine_is_read_back_where_it_can_be(compatible):
    module = make_tensorrt()
    built = build(module, read_back=True, version_compatible=compatible)
    assert [x.name for x in built.engine_layers] == ["__myl_CastGemm", "__myl_Softmax"]
    assert module.asked.runtimes[0].engine_host_code_allowed is compatible


def test_an_engine_that_came_out_in_float32_is_refused():
    module = make_tensorrt()
    wrong = {"Name": "sgemm", "LayerType": "gemm", "Metadata": "[ONNX Layer: product]"}
    tensor = [{"Name": "x", "Format/Datatype": "Float"}]
    module.asked.inspected = {"Layers": [wrong | {"Inputs": tensor, "Outputs": tensor}]}
    with pytest.raises(ArtefactError, match=r"model\.fp16\.engine was to be fp16.*sgemm \(gemm float32\)"):
        build(module, read_back=True)


def test_a_float32_graph_is_refused_before_anything_is_built():
    module = make_tensorrt()
    swap = {"HALF": "FLOAT"}
    module.asked.parsed = tuple(
        (n, k, [(a, swap.get(t, t)) for a, t in read], [(a, swap.get(t, t)) for a, t in written])
        for n, k, read, written in PARSED
    )
    with pytest.raises(ArtefactError, match=r"product \(MATRIX_MULTIPLY float32\)"):
        build(module)
    assert not module.asked.configs


@pytest.mark.parametrize(
    ("refuse", "kind", "said"),
    [
        ("builder", MissingComponentError, "does not start: CUDA initialization failure"),
        ("parse", ArtefactError, "refuses the graph of model.fp16.engine: node 3 is unsupported"),
        ("build", ArtefactError, "cannot build model.fp16.engine: no tactic$"),
        ("deserialize", ArtefactError, "does not load where it was built: expecting compute 8.9"),
    ],
)
def test_a_refusal_is_one_error_with_the_first_cause(refuse, kind, said):
    module = make_tensorrt()
    module.asked.refuse = refuse
    with pytest.raises(kind, match=said) as error:
        build(module, read_back=True)
    assert error.value.hint


def test_progress_is_that_of_the_whole_build():
    heard = []
    build(make_tensorrt(), heard.append)
    assert heard == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_ctrl_c_stops_the_builder_and_then_raises():
    before = signal.getsignal(signal.SIGINT)
    heard = []

    def interrupt(share):
        heard.append(share)
        signal.raise_signal(signal.SIGINT)

    module = make_tensorrt()
    with pytest.raises(KeyboardInterrupt):
        build(module, interrupt)
    assert module.asked.stopped and signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_a_build_leaves_signals_alone():
    made = []
    thread = threading.Thread(target=lambda: made.append(build(make_tensorrt())))
    thread.start()
    thread.join()
    assert made[0].plan
