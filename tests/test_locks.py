"""locks.py: one holder at a time, whoever ends, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from errors import OutputError, UsageError
from locks import exclusive
from tests.helpers import REPO

HOLD = "import sys; from pathlib import Path; from locks import exclusive\nwith exclusive(Path(sys.argv[1]), 'busy'):"


def holder(path):
    """A process that holds the lock until it is killed."""
    program = HOLD + "\n    print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    return child


def test_the_second_is_refused_while_the_first_runs_and_the_file_goes(tmp_path):
    lock = tmp_path / "deep" / "lock"
    with exclusive(lock, "busy here"):
        with pytest.raises(UsageError, match="busy here") as error, exclusive(lock, "busy here"):
            raise AssertionError("two hold it")
        assert error.value.exit_code == 2 and "wait" in error.value.hint
    assert not lock.exists()
    with exclusive(lock, "busy"):
        pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_locks_nobody_out(tmp_path, end):
    child = holder(tmp_path / "lock")
    with pytest.raises(UsageError), exclusive(tmp_path / "lock", "busy"):
        raise AssertionError("two hold it")
    os.kill(child.pid, end)
    child.wait(30)
    with exclusive(tmp_path / "lock", "busy"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_within_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "lock", "busy"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["below a file", "a link", "a folder"])
def test_a_lock_that_cannot_be_made_is_an_output_error(tmp_path, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    path = {"below a file": tmp_path / "file" / "lock", "a link": tmp_path / "link", "a folder": tmp_path}[place]
    with pytest.raises(OutputError), exclusive(path, "busy"):
        pass
    assert (tmp_path / "file").read_text() == "x"


def _count(path, total, rounds):
    for _ in range(rounds):
        while True:
            try:
                with exclusive(path, "busy"):
                    value = total.value
                    total.value = value + 1
            except UsageError:
                continue
            break


def test_four_processes_never_hold_it_at_once(tmp_path):
    """Each adds to a number in two steps: one that came between would lose a count."""
    context = multiprocessing.get_context("spawn")
    total = context.Value("i", 0, lock=False)
    some = [context.Process(target=_count, args=(tmp_path / "lock", total, 200)) for _ in range(4)]
    for process in some:
        process.start()
    for process in some:
        process.join(60)
    assert total.value == 800
