"""files.py: files that appear whole or not at all; links, long names, killed processes, threads."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import files
from errors import OutputError
from files import atomic_file, output_errors, sha256_of, write_atomically
from tests.helpers import REPO, file_size_limit


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


def test_sha256_of_is_the_files(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


# --- atomic files ---------------------------------------------------------------------------------------------------


def test_an_atomic_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "out.bin"
    with atomic_file(path) as file:
        file.write(b"first")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["out.bin"]


def test_an_atomic_file_obeys_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "out", b"x")
        assert os.umask(0o027) == 0o027, "the umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "out.bin"
    if old is not None:
        path.write_bytes(old)

    def interrupted():
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if old is None else {"out.bin": old})


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path):
    (tmp_path / "out.bin").write_bytes(b"old")
    with file_size_limit(4096), pytest.raises(OutputError, match="disk full") as error:
        write_atomically(tmp_path / "out.bin", bytes(100_000))
    assert error.value.exit_code == 1 and error.value.hint
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"out.bin": b"old"}


def write_to_dev_full():
    with output_errors(Path("result.npz")), open("/dev/full", "wb") as file:
        file.write(b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_left_is_an_output_error():
    with pytest.raises(OutputError, match=r"disk full while writing result\.npz"):
        write_to_dev_full()


def unwritable(tmp_path, case):
    if case == "below a file":
        (tmp_path / "file").write_text("x")
        return tmp_path / "file" / "out.bin"
    if case == "deep below a file":
        (tmp_path / "file").write_text("x")
        return tmp_path / "file" / "sub" / "out.bin"
    if case == "a folder of that name":
        (tmp_path / "out.bin").mkdir()
        return tmp_path / "out.bin"
    if case == "a loop of links":
        (tmp_path / "loop").symlink_to("loop")
        return tmp_path / "loop" / "out.bin"
    if case == "a dangling link":
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        return tmp_path / "link" / "out.bin"
    if case == "name too long":
        return tmp_path / ("x" * 300)
    return Path("/proc/out.bin" if case == "/proc" else "/proc/sub/out.bin")


@pytest.mark.parametrize(
    "case",
    [
        "below a file",
        "deep below a file",
        "a folder of that name",
        "a loop of links",
        "a dangling link",
        "name too long",
        "/proc",
        "/proc/sub",
    ],
)
def test_what_cannot_be_written_is_an_output_error(tmp_path, case):
    path = unwritable(tmp_path, case)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as error:
        write_atomically(path, b"content")
    assert error.value.exit_code == 1 and error.value.hint
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_atomically(tmp_path / "out", b"x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_refusals_that_root_never_meets_are_output_errors(number):
    with pytest.raises(OutputError, match=r"out\.bin cannot be written"), output_errors(Path("out.bin")):
        raise OSError(number, os.strerror(number))


def test_an_input_that_is_missing_is_not_blamed_on_the_output(tmp_path):
    def copy_of_nothing():
        with atomic_file(tmp_path / "out") as file:
            file.write((tmp_path / "nowhere").read_bytes())

    with pytest.raises(FileNotFoundError):
        copy_of_nothing()
    assert not list(tmp_path.iterdir())
