"""Commands that die in the middle: at a random moment, or just before one of the calls that change files.

A loop runs in a process of its own (harness.in_process), which runs the command whole once or twice, and then again and
again in forks of itself that do not live to its end. After each death, what was whole before must be whole still.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import files
from tests.fuzz.harness import Words, call, listing

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_LATE = 0.95
"""Share of a whole run after which a random moment is no more: it would mostly come too late."""


@dataclass(frozen=True)
class Loop:
    """A command to kill.

    Attributes:
        words: two command lines with the same output, of which one or the other is run.
        whole: raises if what lies at the output is neither what the one nor what the other makes.
        start: puts an earlier result there, if it is not that of the command before.
    """

    words: tuple[Words, Words]
    whole: Callable[[], object]
    start: Callable[[], object] = lambda: None


class _Clock:
    """Counts the calls that change files, and kills this process just before one of them."""

    def __init__(self) -> None:
        self.count, self.last = 0, -1
        sys.addaudithook(self._hear)

    def _hear(self, event: str, details: tuple) -> None:
        exchange = event == "ctypes.dlsym" and details[1] == "renameat2"
        if event in _CHANGES or exchange or (event == "open" and isinstance(details[2], int) and details[2] & _WRITES):
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def run_loop(prepare: Callable[[Path], Loop], name: str, root: Path, count: int) -> None:
    """Kill a command `count` times; problems go to root/problems."""
    place = root / "place"
    place.mkdir()
    loop, clock, ends = prepare(place), _Clock(), []
    problems: list[str] = []
    for words in (*loop.words, loop.words[0]):  # the first time imports are late, the last has an earlier result
        loop.start()
        clock.count, start = 0, time.monotonic()
        _must_succeed(words, problems)
        ends.append((clock.count, time.monotonic() - start))
    clean = set(listing(place))
    for number in range(count):
        rng = Random(f"{name} {number}")
        calls, seconds = ends[-1]
        moment = rng.randrange(1, calls + 1) if number % 2 else rng.uniform(0, _LATE * seconds)
        loop.start()
        died = _kill(clock, loop.words[rng.randrange(2)], moment)
        what = f"{name} {number}, killed {'before call' if number % 2 else 'after'} {moment} ({died})"
        problems += [f"{what}: {problem}" for problem in _problems_of(loop.whole)]
    _must_succeed(loop.words[0], problems)
    problems += _problems_of(loop.whole)
    if left := sorted(set(listing(place)) - clean):
        problems.append(f"{name}: left over after another run: {left}")
    (root / "problems").write_text("".join(f"{problem}\n" for problem in problems))


def _must_succeed(words: Words, problems: list[str]) -> None:
    files._swept.clear()  # a new process would know of no folder that it was swept
    code, text = call(words, quiet=True)
    if code != 0:
        problems.append(f"{words} ended with {code}: {text.strip()[-500:]}")


def _kill(clock: _Clock, words: Words, moment: int | float) -> str:
    """Run a command in a fork that dies at that moment: before a call of that number, or after so many seconds."""
    child = os.fork()
    if not child:
        files._swept.clear()
        clock.count = 0
        if isinstance(moment, int):
            clock.last = moment
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends a process as suddenly as SIGKILL
            signal.setitimer(signal.ITIMER_REAL, max(moment, 1e-6))
        code, _ = call(words, quiet=True)
        os._exit(code if isinstance(code, int) else 99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "it had ended by itself" if status == 0 else f"status {status}"


def _problems_of(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return []
