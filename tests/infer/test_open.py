"""infer/open.py: what was asked for runs or nothing does; "auto" says what it passed over."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bundle import Bundle, BundleFile
from errors import (
    ArtefactError,
    ForeignArtefactError,
    MissingComponentError,
    UntrustedCodeError,
    UsageError,
    not_installed,
)
from infer.open import open_session, require_here
from infer.runtimes import AUTO_ORDER, RUNTIMES
from infer.session import SessionOptions
from tests.infer.stand_in import StandInSession


def entry(runtime, precision, form="uint8"):
    """A file that a runtime takes."""
    kind = RUNTIMES[runtime].kinds[0]
    record = {"runtime": runtime}
    return BundleFile(
        "0" * 64,
        kind,
        precision="fp32" if kind == "weights" else precision,
        input="" if kind in ("weights", "blob") else form,
        engine=record if kind == "engine" else {},
        package=record if kind == "package" else {},
    )


def bundle_of(*runtimes, precisions=("fp32", "fp16", "int8")):
    """A bundle with the files of these runtimes, in each of their precisions."""
    each = [(r, p) for r in runtimes for p in RUNTIMES[r].precisions if p in precisions]
    files = {f"{r}.{p}": entry(r, p) for r, p in each}
    return Bundle(Path("somewhere"), SimpleNamespace(files=files))


WHOLE = bundle_of(*RUNTIMES)
NOT_THERE = MissingComponentError("it is not there", "get one")


@pytest.fixture
def only(monkeypatch):
    """Make only these runtimes run, all installed and with a GPU; returns what was tried."""
    tried = []

    def install(*runtimes, error=NOT_THERE):
        def opener(name):
            def opened(bundle, options, announce):
                tried.append(name)
                if name not in runtimes:
                    raise error
                return StandInSession()

            return opened

        for name, runtime in list(RUNTIMES.items()):
            monkeypatch.setitem(RUNTIMES, name, replace(runtime, open=opener(name), requires=None, device="any"))
        return tried

    return install


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("first", range(len(AUTO_ORDER)))
def test_auto_takes_the_first_that_runs_and_says_what_it_passed_over(only, first, verbose):
    tried, heard = only(*AUTO_ORDER[first:], "torch"), []
    open_session(WHOLE, "auto", SessionOptions(), heard.append, verbose)
    passed = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu")[:first]
    assert tried == [*passed, AUTO_ORDER[first]]
    if verbose:
        assert heard == [f"runtime auto passed over {name}: it is not there" for name in passed]
    else:
        line = f"runtime auto passed over {', '.join(passed)} (--verbose says why)"
        assert heard == ([line] if passed else []), "one line, however many"


def test_auto_never_takes_torch_nor_machine_code(only):
    tried, heard = only("torch", "aotinductor", "fused", "c"), []
    with pytest.raises(MissingComponentError, match="no runtime can run") as error:
        open_session(WHOLE, "auto", SessionOptions(run_code=True), heard.append)
    assert tried == list(AUTO_ORDER) and all(name in error.value.hint for name in AUTO_ORDER)
    assert not heard


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_was_asked_for_runs_or_nothing_does(only, runtime):
    tried = only(*(r for r in RUNTIMES if r != runtime))
    options = SessionOptions(precision=RUNTIMES[runtime].precisions[0], run_code=True)
    with pytest.raises(MissingComponentError, match="it is not there"):
        open_session(WHOLE, runtime, options)
    assert tried == [runtime]


@pytest.mark.parametrize(
    "error", [ForeignArtefactError("of another GPU"), MissingComponentError("not there"), UntrustedCodeError("code")]
)
def test_auto_passes_over_what_cannot_or_may_not_run(only, error):
    only("onnxruntime-cuda", error=error)
    heard = []
    open_session(WHOLE, "auto", SessionOptions(), heard.append, verbose=True)
    assert [line for line in heard if error.message in line] == heard and len(heard) == 2


def test_auto_does_not_hide_a_corrupt_artefact(only):
    only(error=ArtefactError("corrupt"))
    with pytest.raises(ArtefactError, match="corrupt"):
        open_session(WHOLE, "auto", SessionOptions())


def test_an_unknown_runtime_is_a_programming_error():
    with pytest.raises(ValueError, match="openvino"):
        open_session(WHOLE, "openvino", SessionOptions())


@pytest.mark.parametrize("runtime", [name for name, runtime in RUNTIMES.items() if runtime.requires])
def test_a_module_that_is_not_installed_is_named_before_anything_else(runtime, monkeypatch):
    module = RUNTIMES[runtime].requires
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingComponentError, match=f"{module} is not installed") as error:
        open_session(bundle_of(), runtime, SessionOptions())
    assert error.value.hint == not_installed(module).hint and error.value.exit_code == 4


@pytest.mark.parametrize("runtime", [name for name, runtime in RUNTIMES.items() if runtime.device == "cuda"])
def test_without_a_gpu_nothing_is_loaded_that_needs_one(runtime, monkeypatch):
    monkeypatch.setattr("infer.open.cuda_devices", lambda: 0)
    with pytest.raises(MissingComponentError, match="no CUDA GPU"):
        require_here(replace(RUNTIMES[runtime], requires=None))


# --- precisions and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("runtime", "precision"), [("torch", "fp16"), ("fused", "fp32"), ("onnxruntime-cuda", "int8")])
def test_a_precision_that_a_runtime_has_not_is_refused_with_those_it_has(only, runtime, precision):
    tried = only(runtime)
    with pytest.raises(MissingComponentError, match=f"{runtime} has no {precision}") as error:
        open_session(WHOLE, runtime, SessionOptions(precision=precision))
    assert all(each in error.value.hint for each in RUNTIMES[runtime].precisions) and not tried


MADE_BY = {
    "onnxruntime-cpu": "--precision int8 --onnx-input uint8",
    "auto": "--precision int8 --onnx-input uint8",
    "c": "--precision int8 --blob",
}


@pytest.mark.parametrize("runtime", MADE_BY)
def test_a_bundle_without_that_precision_names_the_export_that_makes_it(only, runtime):
    tried = only(*RUNTIMES)
    with pytest.raises(MissingComponentError, match="somewhere holds no int8") as error:
        open_session(bundle_of(*RUNTIMES, precisions=("fp32", "fp16")), runtime, SessionOptions(precision="int8"))
    assert f"cli.py export --run RUN --fold-bn {MADE_BY[runtime]}" in error.value.hint and not tried


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "tensorrt", "aotinductor"])
def test_a_bundle_without_a_form_for_deep_samples_says_so(only, runtime):
    only(*RUNTIMES)
    with pytest.raises(MissingComponentError, match="takes more than 8 bit"):
        open_session(WHOLE, runtime, SessionOptions(10, run_code=True))


@pytest.mark.parametrize("runtime", ["torch", "c"])
def test_a_file_of_no_form_takes_every_depth(only, runtime):
    assert only(runtime) == []
    assert isinstance(open_session(WHOLE, runtime, SessionOptions(10)), StandInSession)


def test_the_engine_of_the_other_tensorrt_is_not_taken(only):
    only("tensorrt")
    with pytest.raises(MissingComponentError, match="holds no fp32 engine file for runtime tensorrt"):
        open_session(bundle_of("tensorrt-rtx"), "tensorrt", SessionOptions())


# --- machine code -----------------------------------------------------------------------------------------------------


def test_machine_code_out_of_a_bundle_runs_only_if_someone_says_so(only):
    tried = only("aotinductor")
    with pytest.raises(UntrustedCodeError, match="machine code out of somewhere") as error:
        open_session(WHOLE, "aotinductor", SessionOptions())
    assert not tried and "--run-packages" in error.value.hint and isinstance(error.value, UsageError)
    open_session(WHOLE, "aotinductor", SessionOptions(run_code=True))
    assert tried == ["aotinductor"]


# --- warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "device", "lines"), [("fp16", "cpu", 1), ("fp32", "cpu", 0), ("fp16", "cuda", 0)]
)
@pytest.mark.parametrize("runtime", ["auto", "onnxruntime-cpu"])
def test_float16_on_a_cpu_is_warned_of_in_one_line(only, monkeypatch, precision, device, lines, runtime):
    only(*RUNTIMES)
    monkeypatch.setattr(StandInSession, "info", replace(StandInSession.info, device=device))
    heard = []
    open_session(WHOLE, runtime, SessionOptions(precision=precision), heard.append)
    assert len([line for line in heard if "fp16 on a CPU" in line]) == lines == len(heard)
