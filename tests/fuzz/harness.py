"""Runs damaged inputs through the command line's own entry, many to a process, and says what must not have happened.

A batch runs in a process forked from one that has imported everything already (multiprocessing's forkserver), so that a
crash, a hang or a full memory ends that process alone, and a mutation costs no start of Python.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NoReturn

import click

from cli import main
from console import ErrorBoundary

SECONDS = 20
"""After which an input counts as one that hangs."""
MEMORY = 2 << 30
"""Bytes that an input may take, over what the process takes before it reads any."""
_RESERVED = 1 << 30
"""Bytes of addresses that threads may reserve besides, and never fill."""
_ALL_CODES = range(8)
_PROGRESS = re.compile(r"[\d,]+ (%|done)")
_SHOWN = 5

Words = tuple[object, ...] | Callable[[], object]
"""A command line; or, where no command does it, a call that raises what a command would report."""


@dataclass(frozen=True)
class Case:
    """One damaged input.

    Attributes:
        files: what to write, the damaged file among them, by path.
        words: what reads it.
        outputs: what a command that succeeds writes anew, and one that fails leaves alone.
        extra: what one that fails may leave besides, such as results as far as they came.
        folder: where a command keeps finished work for the next one to go on from, even if it fails; nothing in it may
            be lost, and no half-written file be left. It is removed before each input.
    """

    files: Mapping[Path, bytes]
    words: Words
    outputs: tuple[Path, ...] = ()
    extra: tuple[Path, ...] = ()
    folder: Path | None = None


Draw = Callable[[Random], Case]
"""Gives the next damaged input."""
Prepare = Callable[[Path], Draw]
"""Fills a folder with what stays the same, and gives what draws inputs there."""


@dataclass
class Verdict:
    """How one input ended.

    Attributes:
        code: exit code of the command.
        text: its stderr.
        problems: what must not have happened; empty if all is well.
    """

    code: object = None
    text: str = ""
    problems: list[str] = field(default_factory=list)


def run_case(case: Case, root: Path, quiet: bool = True) -> Verdict:
    """Write the files, run the command in this process, and look at how it ended and at what lies in the folder."""
    if case.folder is not None:
        shutil.rmtree(case.folder, ignore_errors=True)
    for path, content in case.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for path in case.outputs:
        path.write_bytes(b"an earlier result")
    before = listing(root)
    verdict = Verdict(*call(case.words, quiet))
    after = listing(root)
    _judge_words(verdict)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    outputs = set(map(str, case.outputs))
    allowed = outputs if verdict.code == 0 else set(map(str, case.extra))
    if case.folder is not None:
        inside = str(case.folder) + os.sep
        changed = {path for path in changed if not path.startswith(inside) or Path(path).name.startswith(".")}
        if verdict.code == 0:
            before = {path: about for path, about in before.items() if not path.startswith(inside)}
    if lost := sorted(before.keys() - after.keys()):
        verdict.problems.append(f"lost: {lost}")
    if odd := sorted(changed - allowed):
        verdict.problems.append(f"changed or left over: {odd}")
    if verdict.code == 0 and (missing := sorted(outputs - changed)):
        verdict.problems.append(f"not written: {missing}")
    for path in (*case.outputs, *case.extra):
        path.unlink(missing_ok=True)
    return verdict


def run_words(words: tuple[object, ...]) -> None:
    """Run a command that must succeed."""
    code, text = call(words, quiet=True)
    assert code == 0, text


def listing(root: Path) -> dict[str, tuple[int, ...]]:
    """Every file below, with inode, size and time of change."""
    found: dict[str, tuple[int, ...]] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            info = os.lstat(path := os.path.join(folder, name))
            found[path] = info.st_ino, info.st_size, info.st_mtime_ns
    return found


def call(words: Words, quiet: bool) -> tuple[object, str]:
    out, err = (io.StringIO(), io.StringIO()) if quiet else (sys.stdout, sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _command(words) if callable(words) else main.main([str(word) for word in words], prog_name="cli.py")
        except SystemExit as done:
            return done.code, err.getvalue() if quiet else ""
        except BaseException:
            return "no exit at all", traceback.format_exc()
    return "no exit at all", ""


def _command(call: Callable[[], object]) -> NoReturn:
    """What a command that makes this call alone would end with."""
    group = ErrorBoundary("test", commands={"read": click.Command("read", callback=lambda: call())})
    group.main(["read"], prog_name="test")
    raise AssertionError("unreachable")


def _judge_words(verdict: Verdict) -> None:
    lines = [line for line in verdict.text.splitlines() if line and not _PROGRESS.match(line)]
    labels = [line.split(":", 1)[0] for line in lines]
    if verdict.code not in _ALL_CODES:
        verdict.problems.append(f"exit {verdict.code}")
    if "memory" in verdict.text:
        verdict.problems.append("asked for more memory than there is")
    if labels not in ([[]] if verdict.code == 0 else [["error"], ["error", "hint"]]):
        verdict.problems.append("stderr is not one line of error and one of hint")


# --- batches ------------------------------------------------------------------------------------------------------


def run_batch(prepare: Prepare, name: str, root: Path, numbers: Iterable[int]) -> None:
    """In a process of its own: run inputs of these numbers, and write to root/problems what went wrong with which.

    root/now holds the number that is running, root/place everything that the commands see, root/failing the inputs.
    """
    native = os.open(root / "native", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(native, 2)  # what C libraries print, and Python if it crashes
    place = root / "place"
    place.mkdir()
    draw = prepare(place)
    run_case(draw(Random(f"{name} 0")), place)  # imports what commands import late
    _limit_memory()
    start, handles = _peak(), len(os.listdir("/proc/self/fd"))
    printed, codes = os.fstat(native).st_size, Counter[str]()
    for number in numbers:
        (root / "now").write_text(str(number))
        case = draw(Random(f"{name} {number}"))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        verdict = run_case(case, place)
        faulthandler.cancel_dump_traceback_later()
        codes[str(verdict.code)] += 1
        if (size := os.fstat(native).st_size) != printed:
            words = (root / "native").read_text(errors="replace")[printed:]
            verdict.problems.append(f"a library printed: {words.strip()[:300]}")
            printed = size
        if _peak() - start > MEMORY:
            verdict.problems.append(f"took {(_peak() - start) >> 20} MiB")
            start = _peak()
        if len(os.listdir("/proc/self/fd")) > handles + 4:
            verdict.problems.append("left files open")
            handles = len(os.listdir("/proc/self/fd"))
        if verdict.problems:
            _save(root, name, number, case)
            with (root / "problems").open("a") as file:
                text = verdict.text.strip().replace("\n", " | ")[-400:]
                file.write(f"{name} {number}: {'; '.join(verdict.problems)}: {text}\n")
    spent = resource.getrusage(resource.RUSAGE_SELF)
    ended = {"exit codes": codes, "cpu_s": round(spent.ru_utime + spent.ru_stime, 1)}
    (root / "ended").write_text(json.dumps(ended))
    (root / "now").unlink()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _limit_memory() -> None:
    """What an input takes far beyond MEMORY fails, instead of taking the machine down."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY + _RESERVED
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _save(root: Path, name: str, number: int, case: Case) -> None:
    for path, content in case.files.items():
        kept = root / "failing" / f"{name}-{number}" / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)


def in_process(run: Callable[..., None], prepare: Callable, name: str, root: Path, amount: object) -> str:
    """Run a batch or a loop in a process of its own; what went wrong, in lines for people, empty if nothing did."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.warm"])
    process = context.Process(target=run, args=(prepare, name, root, amount))
    process.start()
    process.join()
    found = (root / "problems").read_text().splitlines() if (root / "problems").exists() else []
    if process.exitcode:
        found.insert(0, _died(name, root, process.exitcode))
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "\n".join((*found[:_SHOWN], *more))


def _died(name: str, root: Path, code: int | None) -> str:
    number = (root / "now").read_text() if (root / "now").exists() else "of none"
    words = (root / "native").read_text(errors="replace")[-2000:] if (root / "native").exists() else ""
    if (root / "place").exists():
        shutil.copytree(root / "place", root / "failing" / f"{name}-{number}", dirs_exist_ok=True)
    end = f"ran for over {SECONDS} s" if "Timeout" in words else f"the process ended with {code}"
    return f"{name} {number}: {end}: {words}"
