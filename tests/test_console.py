"""console.py: what an error becomes."""

import errno
import os
import pwd
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import numpy as np
import pytest
from click.testing import CliRunner

from console import ErrorBoundary, error_boundary, one_line, say
from errors import INSTALLED_BY, InputError, not_installed
from tests.helpers import REPO


def run(work, *words):
    group = ErrorBoundary()
    group.command("work")(work)
    return CliRunner().invoke(group, ["work", *words])


def outcome(work):
    done = run(work)
    return done.exit_code, done.stderr.splitlines()[0]


def interrupted_while_closing():
    try:
        raise KeyboardInterrupt
    finally:
        raise ValueError("Can't close the ZIP file")


def refused_after_an_earlier_error():
    try:
        raise KeyError("a")
    except KeyError:
        raise InputError("a is missing") from None


def raising(error):
    def work():
        raise error

    return work


def out_of_memory():
    np.zeros((1 << 40, 1 << 10))


def missing(name):
    return ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (out_of_memory, (1, "error: this machine has too little memory for that")),
        (
            raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")),
            (1, "error: this machine has too little memory for that"),
        ),
        (raising(OSError(errno.ENOSPC, "No space left on device")), (1, "error: disk full")),
        (raising(PermissionError(errno.EACCES, "Permission denied", "a.npy")), (3, "error: a.npy: Permission denied")),
        (raising(missing("PIL.Image")), (4, "error: PIL is not installed")),
        (raising(missing("train.nothing")), (70, "error: unexpected ModuleNotFoundError: No module named 'tra")),
        (raising(ImportError("libcudart.so.13: cannot open", name="torch._C")), (4, "error: torch is installed, but ")),
        (raising(ImportError("cannot import name 'x' from 'train'", name="train")), (70, "error: unexpected Imp")),
        (raising(OSError(errno.EBADF, "Bad file descriptor")), (70, "error: unexpected OSError")),
        (raising(InputError("two\nlines\x1b[31m")), (3, r"error: two lines\x1b[31m")),
        (raising(InputError("9" * 5000)), (3, "error: " + "9" * 200 + "...")),
        (interrupted_while_closing, (130, "error: interrupted")),
        (refused_after_an_earlier_error, (3, "error: a is missing")),
    ],
)
def test_interrupts_are_told_from_errors(work, expected):
    code, line = outcome(work)
    assert (code, line[: len(expected[1])]) == expected
    assert len(line) < 300


def test_a_hint_is_there_or_not_but_never_empty():
    assert run(raising(InputError("a"))).stderr == "error: a\n"
    assert run(raising(InputError("a", "b"))).stderr == "error: a\nhint: b\n"


WARNS = """
import logging, subprocess, sys, warnings
from console import error_boundary
with error_boundary(len(sys.argv) > 1):
    warnings.warn("of no use")
    logging.getLogger("matplotlib").warning("a temporary folder")
    subprocess.run([sys.executable, "-c", "import warnings; warnings.warn('child')"], check=True)
"""


@pytest.mark.parametrize("debug", [False, True])
def test_what_libraries_warn_of_is_for_debugging(debug, monkeypatch):
    """Python's warnings name this machine's folders."""
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    words = [sys.executable, "-c", WARNS, *(["--debug"] if debug else [])]
    told = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True).stderr
    assert all((word in told) == debug for word in ("of no use", "a temporary folder", "child")), told
    assert debug or not told


def test_a_name_that_is_no_utf_8_is_said(capfd):
    with error_boundary():
        say(os.fsdecode(b"\xff.npy"))
    assert capfd.readouterr().out == "\\udcff.npy\n"


def test_an_id_that_nobody_knows_has_a_name_for_torch(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "given back after the test")
        monkeypatch.delenv(name)

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with error_boundary():
        assert os.environ["USER"] == f"user-{os.getuid()}"


def test_one_line_keeps_what_can_be_shown():
    assert one_line("a  b\n\tc ─► d\u202e") == "a b c ─► d\\u202e"
    assert one_line("x" * 400) == "x" * 400


# --- what is not installed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(INSTALLED_BY))
def test_the_hint_installs_what_is_missing(module):
    """The distribution that holds the module is what the hint names, or in the extra that it names."""
    hint = not_installed(f"{module}.inner").hint
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    name, _, extra = INSTALLED_BY[module].rstrip("]").partition("[")
    assert hint.startswith("pip install ")
    wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
    names = {r.split(";")[0].split(">")[0].strip().replace("_", "-") for r in wanted}
    if extra:
        assert name == project["name"] and f"[{extra}]'" in hint
    else:
        assert name in names
    holders = {d.replace("_", "-") for d in packages_distributions().get(module, [])}
    assert not holders or module == "dask" or any(h.startswith(n) for h in holders for n in names)
