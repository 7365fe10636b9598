"""files.py where others come in: links, long names, killed processes, threads (the rest: test_bundle.py)."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import files
from errors import OutputError
from files import atomic_file, write_atomically
from tests.helpers import REPO


def left_in(folder):
    return [name for name in os.listdir(folder) if name.startswith(files._TEMPORARY)]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """As if this process had written nothing yet."""
    monkeypatch.setattr(files, "_swept", set())


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_link_stays_and_what_it_names_is_replaced(tmp_path, old):
    (tmp_path / "big").mkdir()
    (tmp_path / "middle").symlink_to("big/out.bin")
    (tmp_path / "out.bin").symlink_to("middle")
    if old is not None:
        (tmp_path / "big" / "out.bin").write_bytes(old)
    write_atomically(tmp_path / "out.bin", b"new")
    assert (tmp_path / "out.bin").is_symlink() and (tmp_path / "middle").is_symlink()
    assert (tmp_path / "big" / "out.bin").read_bytes() == b"new"
    assert os.listdir(tmp_path / "big") == ["out.bin"]


def test_links_that_name_each_other_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()


def test_a_link_to_a_fifo_is_refused_and_the_fifo_stays(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    with pytest.raises(OutputError, match="no regular file"):
        write_atomically(tmp_path / "link", b"x")
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize("name", ["x" * 250, "\u00e4" * 125, "x" * 255, "\udcff.npz", "2024-05-01T12:30:00.npz", "-g"])
def test_any_name_that_a_folder_takes_will_do(tmp_path, name):
    write_atomically(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_no_folder_takes_is_refused_before_the_work(tmp_path):
    with pytest.raises(OutputError, match="too long"), atomic_file(tmp_path / ("x" * 256)):
        raise AssertionError("the work began")
    assert not os.listdir(tmp_path)


WRITER = """
import sys, time
from pathlib import Path
from files import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing tmp_path/out.bin."""
    words = [sys.executable, "-c", WRITER, str(tmp_path / "out.bin")]
    with subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_what_a_killed_process_left_goes_with_the_next_file(tmp_path, writer):
    assert len(left_in(tmp_path)) == 1
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(left_in(tmp_path)) == 1
    write_atomically(tmp_path / "another.bin", b"x")
    assert os.listdir(tmp_path) == ["another.bin"]


def test_what_a_living_process_writes_is_left_alone(tmp_path, writer):
    write_atomically(tmp_path / "another.bin", b"x")
    assert len(left_in(tmp_path)) == 1 and writer.poll() is None


@pytest.mark.parametrize("kind", ["another host", "a folder", "a link", "a file of the user's"])
def test_what_is_not_ours_is_left_alone(tmp_path, kind):
    name = f"{files._TEMPORARY}0123{files._SUFFIX}"
    if kind == "another host":
        name = ".av1part-00000000-0123.tmp"
        (tmp_path / name).write_bytes(b"x")
    elif kind == "a folder":
        (tmp_path / name).mkdir()
    elif kind == "a link":
        (tmp_path / "good").write_bytes(b"good")
        (tmp_path / name).symlink_to("good")
    else:
        name = ".out.npz.tmp"
        (tmp_path / name).write_bytes(b"x")
    before = set(os.listdir(tmp_path))
    write_atomically(tmp_path / "out.bin", b"x")
    assert set(os.listdir(tmp_path)) == before | {"out.bin"}


def test_a_temporary_file_that_a_sweeper_took_is_made_again(tmp_path, monkeypatch):
    """The instant between making and locking it."""
    flock, taken = files.fcntl.flock, []

    def sweep_first(file, flags):
        if not taken:
            [name] = left_in(tmp_path)
            taken.append(name)
            os.unlink(tmp_path / name)
        flock(file, flags)

    monkeypatch.setattr(files.fcntl, "flock", sweep_first)
    write_atomically(tmp_path / "out.bin", b"whole")
    assert taken and (tmp_path / "out.bin").read_bytes() == b"whole" and os.listdir(tmp_path) == ["out.bin"]


def test_a_file_system_without_locks_does(tmp_path, monkeypatch):
    def refuse(file, flags):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    write_atomically(tmp_path / "out.bin", b"x")
    assert os.listdir(tmp_path) == ["out.bin"]


def test_no_thread_ever_sees_another_umask(tmp_path, monkeypatch):
    """A file that another thread makes meanwhile must not be open to all."""

    def refuse(mask):
        raise AssertionError("the umask is the whole process's")

    monkeypatch.setattr(os, "umask", refuse)
    threads = [threading.Thread(target=write_atomically, args=(tmp_path / str(i), b"x")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(os.listdir(tmp_path)) == [str(i) for i in range(8)]
