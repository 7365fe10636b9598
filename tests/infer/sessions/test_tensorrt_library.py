"""infer/sessions/tensorrt_library.py; and that the stub of the other tests offers nothing that the real API has not."""

import enum
import inspect
import sys

import pytest

from errors import INSTALLED_BY, MissingComponentError
from infer.sessions.tensorrt_library import Library, make_log, open_library, release_of
from tests.tensorrt_stub import DOCUMENTED, make_tensorrt


@pytest.mark.parametrize(("runtime", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_library_that_is_not_installed_is_named_with_how_to_get_it(monkeypatch, runtime, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingComponentError, match=f"{module} is not installed") as error:
        open_library(runtime)
    assert error.value.exit_code == 4 and f"pip install '{INSTALLED_BY[module]}'" in error.value.hint


@pytest.mark.parametrize("kind", [ImportError, OSError, RuntimeError])
def test_a_library_that_does_not_load_is_missing(monkeypatch, kind):
    def refuse(name):
        raise kind("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(MissingComponentError, match=r"does not load: libnvinfer\.so\.10"):
        open_library("tensorrt")


def test_versions_are_read_back():
    library = Library("tensorrt-rtx", make_tensorrt("1.7.1.116", rtx=True))
    assert (library.version, library.release) == ("1.7.1.116", "1.7.1")
    assert release_of("11.4.1") == "11.4.1"


def test_features_are_asked_of_the_module():
    full, rtx = Library("tensorrt", make_tensorrt()), Library("tensorrt-rtx", make_tensorrt(rtx=True))
    assert rtx.has("Runtime.get_engine_validity") and not full.has("Runtime.get_engine_validity")
    assert full.has("BuilderFlag.TF32") and not full.has("BuilderFlag.FP16") and not full.has("Nothing.at.all")


def test_a_log_keeps_lines_and_the_first_error():
    module = make_tensorrt()
    log = make_log(Library("tensorrt", module))
    for severity, text in (
        (module.ILogger.VERBOSE, "chatter"),
        (module.ILogger.INFO, "two\n  lines"),
        (module.ILogger.ERROR, "the cause"),
        (module.ILogger.INTERNAL_ERROR, "a consequence"),
    ):
        log.log(severity, text)
    assert log.lines == ["INFO: two lines", "ERROR: the cause", "INTERNAL_ERROR: a consequence"]
    assert log.first_error == "the cause"


# --- the stub ---------------------------------------------------------------------------------------------------------


def surface(stub):
    """Every name that the stub offers, as "Class.attribute"."""
    instances = {
        "ILayer": stub.ILayer("a", "CAST", [], []),
        "INetworkDefinition": stub.INetworkDefinition(()),
        "IBuilderConfig": stub.IBuilderConfig(stub),
        "ITensor": stub.ITensor("a", None),
    }
    for name, value in vars(stub).items():
        if not isinstance(value, type) or name.startswith("_"):
            continue
        if issubclass(value, enum.Enum):
            yield from (f"{name}.{member}" for member in value.__members__)
        else:
            seen = {*vars(value), *vars(instances.get(name, object()) if name in instances else value)}
            yield from (f"{name}.{attribute}" for attribute in sorted(seen) if not attribute.startswith("_"))


@pytest.mark.parametrize("rtx", [False, True])
def test_the_stub_offers_only_what_the_real_bindings_have(rtx):
    real = Library("tensorrt-rtx", pytest.importorskip("tensorrt_rtx"))
    names = set(surface(make_tensorrt(rtx=rtx)))
    assert len(names) > 60 and "IExecutionContext.execute_async_v3" in names and "ILayer.metadata" in names
    recorded = {"IExecutionContext.shapes_seen"}  # the stub's own notes
    assert {n for n in names - recorded if not real.has(n)} == set(DOCUMENTED)


def test_the_stubs_methods_take_the_arguments_that_the_real_ones_document():
    """By name: the real signatures are in pybind's docstrings."""
    real, stub = pytest.importorskip("tensorrt_rtx"), make_tensorrt(rtx=True)
    wrong = []
    for name in surface(stub):
        kind, _, attribute = name.partition(".")
        method = vars(getattr(stub, kind)).get(attribute)
        document = getattr(getattr(real, kind, None), attribute, None)
        if inspect.isfunction(method) and document is not None:
            text = (document.__doc__ or "").partition("\n\n\n")[0]
            parameters = list(inspect.signature(method).parameters)[1:]
            wrong += [f"{name}({p})" for p in parameters if f"{p}:" not in text]
    assert not wrong
