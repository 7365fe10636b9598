"""Damaged files of every format through the command line: 300 of each here, 20,000 of each among the slow tests."""

from __future__ import annotations

import re
import time
from pathlib import Path
from random import Random

import click
import pytest

from errors import InputError
from tests.encodes import needs_libaom
from tests.fuzz.harness import Case, in_process, run_batch
from tests.fuzz.runs import TARGETS

FEW, MANY = 300, 20_000
_OF_LIBAOM = {"ivf", "parts"}


def targets():
    return [pytest.param(name, marks=needs_libaom if name in _OF_LIBAOM else ()) for name in TARGETS]


def check(name: str, root: Path, count: int) -> None:
    found = in_process(run_batch, TARGETS[name], name, root, range(count))
    assert not found, f"{found}\ninputs are in {root / 'failing'}; python -m tests.fuzz {name} NUMBER runs one again"


@pytest.mark.parametrize("name", targets())
def test_few(name, tmp_path):
    check(name, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", targets())
def test_many(name, tmp_path):
    check(name, tmp_path, MANY)


def test_every_format_is_there():
    wanted = {"npy", "manifest", "safetensors", "onnx", "reference", "labels", "index", "run", "resume", "y4m", "map"}
    assert TARGETS.keys() >= wanted | {"ivf", "parts", "luma"}


# --- what the harness must see ------------------------------------------------------------------------------------


def crash(path: Path) -> None:
    import ctypes

    ctypes.string_at(0)


def hang(path: Path) -> None:
    import tests.fuzz.harness

    time.sleep(tests.fuzz.harness.SECONDS + 60)


def fill_memory(path: Path) -> None:
    bytearray(5 << 30)


def bug(path: Path) -> None:
    raise KeyError("nobody expects it")


def refuse(path: Path) -> None:
    raise InputError("it is damaged", "restore it")


def lose(path: Path) -> None:
    path.unlink()
    refuse(path)


def leave(path: Path) -> None:
    path.with_name(".half").touch()
    refuse(path)


def chatter(path: Path) -> None:
    click.echo("a warning", err=True)


def print_by_library(path: Path) -> None:
    import os

    os.write(2, b"native words")


_kept = []


def keep_open(path: Path) -> None:
    _kept.append(path.open())


MISDEEDS = {
    "": refuse,
    "ended with -": crash,
    "ran for over": hang,
    "more memory than": fill_memory,
    "exit 70.*KeyError": bug,
    r"lost: .*input": lose,
    r"left over: .*half": leave,
    "stderr is not": chatter,
    "native words": print_by_library,
    "left files open": keep_open,
}


def fourth(action, root: Path):
    """A target whose fourth input and those behind it meet `action`."""
    path, drawn = root / "input", []

    def draw(rng: Random) -> Case:
        drawn.append(rng)
        return Case({path: b"content"}, lambda: (action if len(drawn) > 4 else refuse)(path))

    return draw


class Prepare:
    """fourth of an action, as something that can be sent to another process."""

    def __init__(self, action) -> None:
        self.action = action

    def __call__(self, root: Path):
        return fourth(self.action, root)


@pytest.mark.parametrize("said", MISDEEDS)
def test_misdeeds_are_seen(said, tmp_path):
    found = in_process(quick_batch, Prepare(MISDEEDS[said]), "misdeed", tmp_path, range(12))
    assert re.search(said, found, re.DOTALL) if said else not found
    saved = [path.name for path in (tmp_path / "failing").rglob("input")]
    assert bool(saved) == bool(said)


def quick_batch(prepare, name, root, numbers) -> None:
    import tests.fuzz.harness

    tests.fuzz.harness.SECONDS = 1
    run_batch(prepare, name, root, numbers)
