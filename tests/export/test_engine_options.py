"""export/engine_options.py: which engines, for which GPUs and batches; what contradicts itself is refused."""

import sys

import pytest

import export.engine_options
from description import BLOCKS, BLOCKS_IN_CONTEXT
from errors import MissingComponentError, UsageError
from export.engine_options import EngineOptions, engine_tools, parse_compute_capabilities
from infer.sessions.cuda import Gpu
from infer.sessions.tensorrt_library import open_library
from tests.helpers import tree
from tests.superblocks import SUPERBLOCKS
from tests.tensorrt_stub import make_tensorrt

SM = (86, 89, 120)
L4 = Gpu("NVIDIA L4", 89, "13.0")


@pytest.fixture
def rtx():
    pytest.importorskip("tensorrt_rtx")
    return open_library("tensorrt-rtx")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """These tests are about a machine without a GPU, also where there is one; some put one in."""
    monkeypatch.setattr(export.engine_options, "local_gpu", lambda: None)


@pytest.fixture
def gpu(monkeypatch):
    return lambda found: monkeypatch.setattr(export.engine_options, "local_gpu", lambda: found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"runtime": "openvino"}, "tensorrt or tensorrt-rtx"),
        ({"min_batch": 0}, "batches must rise"),
        ({"min_batch": 9000, "opt_batch": 8160}, "batches must rise"),
        ({"opt_batch": 70000, "max_batch": 65536}, "batches must rise"),
        ({"max_batch": 1 << 24}, "batches must rise"),
        ({"opt_batch": 0}, "batches must rise"),
        ({"forms": ()}, "uint8 and int32"),
        ({"forms": ("uint16",)}, "uint8 and int32"),
        ({"runtime": "tensorrt", "compute_capabilities": (89,)}, "--compute-capability is for --engine tensorrt-rtx"),
        ({"hardware_compatible": "all"}, "hardware compatibility is one of"),
        ({"hardware_compatible": "ampere-plus"}, "--hardware-compatible is for --engine tensorrt"),
        ({"version_compatible": True}, "--version-compatible is for --engine tensorrt"),
        ({"timing_cache": "x"}, "--timing-cache is for --engine tensorrt"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        EngineOptions(**{"runtime": "tensorrt-rtx"} | options)


@pytest.mark.parametrize(
    ("text", "found"), [("", ()), ("86,89,120", SM), ("8.6, 8.9 ,12.0", SM), ("89,89", (89,)), (" ", ())]
)
def test_compute_capabilities_are_read(text, found):
    assert parse_compute_capabilities(text) == found


@pytest.mark.parametrize("text", ["sm89", "89;86", "9", "-89", "89,", "8.9.1.1", "1e2"])
def test_what_is_no_list_of_compute_capabilities_is_a_usage_error(text):
    with pytest.raises(UsageError, match="no list of compute capabilities"):
        parse_compute_capabilities(text)


@pytest.mark.parametrize(
    "words",
    [
        ("--engine", "tensorrt-rtx", "--opt-batch", "0"),
        ("--engine", "tensorrt-rtx", "--compute-capability", "all"),
        ("--engine", "tensorrt-rtx", "--timing-cache", "cache"),
        ("--engine", "tensorrt", "--compute-capability", "89"),
        ("--engine", "openvino"),
        ("--max-batch", "1024"),
        ("--engine", "none", "--version-compatible"),
    ],
)
def test_wrong_words_end_as_usage_errors_and_touch_nothing(cli, engine_bundle, words):
    before = tree(engine_bundle[0])
    ended = cli("export", "--output-dir", engine_bundle[0], *words)
    assert ended.code == 2 and len(ended.complaints) == 2 and tree(engine_bundle[0]) == before


def test_a_precision_that_nothing_could_check_is_refused(rtx):
    with pytest.raises(MissingComponentError, match="no engine is built in int8"):
        engine_tools(EngineOptions("tensorrt-rtx"), ("fp32", "int8"))


# --- the GPU that is there --------------------------------------------------------------------------------------------


def test_targets_are_this_machines_gpu_or_the_three(rtx, gpu):
    assert engine_tools(EngineOptions("tensorrt-rtx")).targets == SM
    gpu(L4)
    assert engine_tools(EngineOptions("tensorrt-rtx")).targets == (89,)
    assert engine_tools(EngineOptions("tensorrt-rtx", compute_capabilities=(75, 120))).targets == (75, 120)


def test_a_gpu_that_rtx_serves_not_is_named(rtx, gpu):
    gpu(Gpu("NVIDIA H200", 90, "13.0"))
    with pytest.raises(MissingComponentError, match=r"not for compute capability 9\.0 \(NVIDIA H200\)") as error:
        engine_tools(EngineOptions("tensorrt-rtx"))
    assert "--engine tensorrt" in error.value.hint
    with pytest.raises(MissingComponentError, match=r"8\.9, 12\.0, 12\.1, not for compute capability 9\.0$"):
        engine_tools(EngineOptions("tensorrt-rtx", compute_capabilities=(90,)))


def test_the_full_tensorrt_needs_the_gpu_and_builds_for_it(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt())
    with pytest.raises(MissingComponentError, match="no CUDA GPU is visible") as error:
        engine_tools(EngineOptions("tensorrt"))
    assert "tensorrt-rtx" in error.value.hint
    gpu(L4)
    assert engine_tools(EngineOptions("tensorrt")).targets == (89,)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "task", "expected"),
    [
        ({}, BLOCKS, (1, 8160, 65536)),
        ({}, BLOCKS_IN_CONTEXT, (1, 8160, 65536)),
        ({}, SUPERBLOCKS, (1, 510, 4096)),
        ({"max_batch": 100}, SUPERBLOCKS, (1, 100, 100)),
        ({"min_batch": 600}, SUPERBLOCKS, (600, 600, 4096)),
        ({"min_batch": 5000}, SUPERBLOCKS, (5000, 5000, 5000)),
        ({"opt_batch": 9000}, SUPERBLOCKS, (1, 9000, 9000)),
        ({"min_batch": 2, "opt_batch": 3, "max_batch": 4}, BLOCKS, (2, 3, 4)),
    ],
)
def test_batches_are_those_asked_for_or_a_frames_and_eight_frames(options, task, expected):
    made = EngineOptions("tensorrt-rtx", **options)
    assert made.batches(task) == expected
    words = made.words(task)
    assert words.endswith("--min-batch {} --opt-batch {} --max-batch {}".format(*expected))
