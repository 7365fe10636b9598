"""What av1part-enc does to files: nothing of the user's is lost, whatever is asked for and however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from encoder.partition_map import MapFormat, PartitionMap, write_partition_map
from tests.encoder.restricted import SIZE
from tests.encodes import needs_libaom, pan, write_y4m
from tests.helpers import limit_file_size

pytestmark = needs_libaom
FAST = ("--cpu-used", "9")
GOOD = b"an earlier good stream"


@pytest.fixture(params=["nameless", "named"])
def enc(request, encoder_program, tmp_path_factory):
    """Runs the program in a folder; "named": where files without a name do not exist."""
    environment = dict(os.environ)
    if request.param == "named":
        shim = tmp_path_factory.getbasetemp() / "no_tmpfile.so"
        if not shim.exists():
            source = Path(__file__).with_name("no_tmpfile.c")
            subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source], check=True)
        environment["LD_PRELOAD"] = str(shim)

    def run(folder, *words, **options):
        settings = {"capture_output": True, "timeout": 60} | options
        return subprocess.run([encoder_program, *map(str, words)], cwd=folder, env=environment, **settings)

    run.program, run.environment = encoder_program, environment
    return run


@pytest.fixture
def folder(tmp_path):
    """A clip that is whole, one that ends within its second frame, a map, and a file that stands for a model."""
    whole = write_y4m(tmp_path / "clip.y4m", SIZE, pan(SIZE, 2)).read_bytes()
    (tmp_path / "cut.y4m").write_bytes(whole[: len(whole) * 3 // 4])
    form = MapFormat(SIZE.width, SIZE.height, 128)
    import numpy as np

    write_partition_map(tmp_path / "clip.apm", PartitionMap(form, np.full((2, *form.grid), 0x3FF, np.uint16), None))
    (tmp_path / "model").write_bytes(b"no model, but read as one")
    return tmp_path


def contents(folder):
    return {p.name: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in folder.iterdir() if not p.is_dir()}


MAP, MODEL = ("--partition-map", "clip.apm", "--cpu-used", "6"), ("--model", "model", "--cpu-used", "6")
SAME = {
    "output is the input": ("-o", "clip.y4m"),
    "by another path": ("-o", "sub/../clip.y4m"),
    "by a hard link": ("-o", "hard"),
    "by a link": ("-o", "soft"),
    "reconstruction is the input": ("-o", "a.ivf", "--recon", "clip.y4m"),
    "output is the map": ("-o", "clip.apm", *MAP),
    "reconstruction is the map": ("-o", "a.ivf", "--recon", "./clip.apm", *MAP),
    "output is the model": ("-o", "model", *MODEL),
    "reconstruction is the model": ("-o", "a.ivf", "--recon", "model", *MODEL),
    "both outputs are one that is there": ("-o", "old.ivf", "--recon", "old.ivf"),
    "both are one that is not there": ("-o", "new.ivf", "--recon", "sub/../new.ivf"),
    "both are one that a link names": ("-o", "new.ivf", "--recon", "dangling"),
}


@pytest.mark.parametrize("case", SAME)
def test_what_is_written_is_not_what_is_read(enc, folder, case):
    (folder / "sub").mkdir()
    (folder / "old.ivf").write_bytes(GOOD)
    os.link(folder / "clip.y4m", folder / "hard")
    (folder / "soft").symlink_to("clip.y4m")
    (folder / "dangling").symlink_to("new.ivf")
    before = contents(folder)
    done = enc(folder, "clip.y4m", *FAST, *SAME[case])
    assert done.returncode == 2 and b"too" in done.stderr and contents(folder) == before


def test_stdin_is_an_input_too(enc, folder):
    before = contents(folder)
    with (folder / "clip.y4m").open() as file:
        done = enc(folder, "-", "-o", "clip.y4m", *FAST, stdin=file)
    assert done.returncode == 2 and contents(folder) == before


FAILURES = {
    "bad input": (3, ("cut.y4m",)),
    "map of another size": (3, ("clip.y4m", "--partition-map", "clip.apm", "--cq-level", "20", "--cpu-used", "6")),
    "no model": (3, ("clip.y4m", *MODEL)),
    "no folder for the reconstruction": (1, ("clip.y4m", "--recon", "no/b.yuv")),
    "full disk for the reconstruction": (1, ("clip.y4m", "--recon", "/dev/full")),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_leaves_everything_as_it_was(enc, folder, case):
    status, words = FAILURES[case]
    for name in ("a.ivf", "b.yuv", "target"):
        (folder / name).write_bytes(GOOD)
    (folder / "link.ivf").symlink_to("target")
    os.mkfifo(folder / "fifo")
    recon = () if "--recon" in words else ("--recon", "b.yuv")
    readers = [threading.Thread(target=(folder / "fifo").read_bytes)]
    for output in ("a.ivf", "link.ivf", "new.ivf"):
        before = {name: data for name, data in contents_but_fifo(folder).items()}
        done = enc(folder, *FAST, *words, *recon, "-o", output)
        assert done.returncode == status, done.stderr
        assert contents_but_fifo(folder) == before
    if case != "bad input":
        return
    readers[0].start()
    assert enc(folder, *FAST, *words, "-o", "fifo").returncode == status
    readers[0].join(10)
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    if os.geteuid() == 0:
        os.mknod(folder / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert enc(folder, *FAST, *words, "-o", "null", "--recon", "null").returncode == status
        assert stat.S_ISCHR((folder / "null").stat().st_mode)


def contents_but_fifo(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} | {
        p.name: os.readlink(p) for p in folder.iterdir() if p.is_symlink()
    }


def test_a_full_disk(enc, folder):
    for name in ("a.ivf", "b.yuv"):
        (folder / name).write_bytes(GOOD)
    before = contents(folder)

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit_file_size(1000)()

    done = enc(folder, "clip.y4m", *FAST, "-o", "a.ivf", "--recon", "b.yuv", preexec_fn=full)
    assert done.returncode == 1 and b"cannot be written" in done.stderr and contents(folder) == before


def test_links_names_and_rights(enc, folder):
    """A link stays and what it names is new, be it there before or not; rights stay; names may be long."""
    enc(folder, "clip.y4m", *FAST, "-o", "expected.ivf", "--recon", "expected.yuv", umask=0o027)
    stream = (folder / "expected.ivf").read_bytes()
    assert (folder / "expected.ivf").stat().st_mode & 0o777 == 0o640
    (folder / "deep").mkdir()
    (folder / "deep" / "old").write_bytes(GOOD)
    (folder / "deep" / "old").chmod(0o606)
    (folder / "link").symlink_to("second")
    (folder / "second").symlink_to(folder / "deep" / "old")
    (folder / "dangling").symlink_to("deep/new")
    long = "n" * 250 + ".ivf"
    for output, place in (("link", "deep/old"), ("dangling", "deep/new"), (long, long), ("deep/../c.ivf", "c.ivf")):
        done = enc(folder, "clip.y4m", *FAST, "-o", output)
        assert done.returncode == 0, done.stderr
        assert (folder / place).read_bytes() == stream
    assert (folder / "link").is_symlink() and (folder / "second").is_symlink() and (folder / "dangling").is_symlink()
    assert (folder / "deep" / "old").stat().st_mode & 0o777 == 0o606
    (folder / "round").symlink_to("round")
    assert enc(folder, "clip.y4m", *FAST, "-o", "round").returncode == 1
    assert sorted(p.name for p in (folder / "deep").iterdir()) == ["new", "old"]


def test_what_is_no_regular_file_is_written_through(enc, folder):
    enc(folder, "clip.y4m", *FAST, "-o", "expected.ivf", "--recon", "expected.yuv")
    stream, recon = (folder / "expected.ivf").read_bytes(), (folder / "expected.yuv").read_bytes()
    headless = stream[:24] + bytes(4) + stream[28:]  # nobody can go back to write the number of frames
    os.mkfifo(folder / "fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((folder / "fifo").read_bytes()))
    reader.start()
    assert enc(folder, "clip.y4m", *FAST, "-o", "fifo", "--recon", "/dev/null").returncode == 0
    reader.join(10)
    assert got == [headless] and stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    (folder / "out").symlink_to("/dev/stdout")
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "out"):
        done = enc(folder, "clip.y4m", *FAST, "-o", name, "--json")
        assert done.stdout == headless and done.stderr.startswith(b'{"frames": 2')
        with (folder / "redirected").open("wb") as file:
            file.write(GOOD)
            file.flush()
            done = enc(folder, "clip.y4m", *FAST, "--recon", name, "-o", "a.ivf", stdout=file, capture_output=False)
        assert done.returncode == 0 and (folder / "redirected").read_bytes() == GOOD + recon
    with (folder / "direct").open("wb") as file:  # named, and stdout too
        enc(folder, "clip.y4m", *FAST, "-o", "direct", stdout=file, capture_output=False)
    assert (folder / "direct").read_bytes() == headless


def test_a_reader_that_goes_away_is_an_error(enc, folder):
    os.mkfifo(folder / "fifo")
    reader = threading.Thread(target=lambda: (folder / "fifo").open("rb").close())
    reader.start()
    done = enc(folder, "clip.y4m", *FAST, "-o", "/dev/null", "--recon", "fifo")
    reader.join(10)
    assert done.returncode == 1 and b"fifo: it cannot be written" in done.stderr


@pytest.mark.parametrize("how", ["closed", "full"])
@pytest.mark.parametrize("form", ["--json", None])
def test_a_lost_report(enc, folder, how, form):
    words = [*FAST, "clip.y4m", "-o", "a.ivf", *([form] if form else [])]
    shell = f'"$0" "$@" {">&-" if how == "closed" else ">/dev/full"}'
    run = ["sh", "-c", shell, enc.program, *words]
    done = subprocess.run(run, cwd=folder, env=enc.environment, capture_output=True)
    assert done.returncode == 1 and b"the report: it cannot be written; the stream is whole" in done.stderr
    stream = (folder / "a.ivf").read_bytes()
    assert enc(folder, *words).returncode == 0 and (folder / "a.ivf").read_bytes() == stream
    helped = subprocess.run(["sh", "-c", shell, enc.program, "--help"], cwd=folder, capture_output=True)
    assert helped.returncode == 1


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """Enough frames for many seconds at preset 4."""
    path = tmp_path_factory.mktemp("long") / "long.y4m"
    return write_y4m(path, SIZE, pan(SIZE, 2) * 200)


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL]


def wait_until_caught(process, number):
    """Until the process says to the kernel that it catches the signal: on a busy machine that takes its time."""
    for _ in range(1000):
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_interrupted(enc, folder, long_clip, number):
    for name in ("old.ivf", "old.yuv"):
        (folder / name).write_bytes(GOOD)
    for delay, names in ((0.15, ("new.ivf", "new.yuv")), (0.4, ("old.ivf", "old.yuv")), (0.02, ("new.ivf", "old.yuv"))):
        before = contents(folder)
        words = [enc.program, long_clip, "--cpu-used", "4", "-o", names[0], "--recon", names[1]]
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=enc.environment,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the suite itself may run under nohup
        )
        if delay >= 0.1 and number != signal.SIGKILL:
            wait_until_caught(process, number)
        time.sleep(delay)
        process.send_signal(number)
        status = process.wait(20)
        # So early it may not have caught anything yet, nor written.
        assert status == (-9 if number == signal.SIGKILL else 130) or (delay < 0.1 and status == -number)
        after = contents(folder)
        left = {name for name in after if name.startswith(".av1part-enc-")}
        assert number == signal.SIGKILL or not left
        assert "LD_PRELOAD" in enc.environment or not left
        assert {name: data for name, data in after.items() if name not in left} == before
        for name in left:
            (folder / name).unlink()


def test_nohup(enc, folder):
    """Whoever ignores a closed terminal wants it ignored."""
    words = ["sh", "-c", 'trap "" HUP; "$0" "$@" & sleep 0.1; kill -HUP $!; wait $!', enc.program]
    done = subprocess.run([*words, folder / "clip.y4m", "-o", folder / "a.ivf", "--cpu-used", "3"], env=enc.environment)
    assert done.returncode == 0 and (folder / "a.ivf").stat().st_size > 32


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_predicting_process_ends_too(enc, folder, number):
    """A stand-in for it, which tells its number and then never gives a map."""
    stand_in = folder / "stand_in"
    stand_in.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\nexec sleep 60\n")
    stand_in.chmod(0o755)
    words = [enc.program, "clip.y4m", "-o", "a.ivf", "--bundle", "b", *MAP[2:]]
    environment = enc.environment | {"AV1PART_PYTHON": str(stand_in)}
    process = subprocess.Popen(words, cwd=folder, env=environment)
    deadline = time.monotonic() + 20
    while not (folder / "pid").exists() or not (folder / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) == 130
    other = int((folder / "pid").read_text())
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    os.kill(other, signal.SIGKILL)
    pytest.fail("it is still there")


def test_a_name_with_a_dash_reaches_the_predicting_process(enc, folder):
    stand_in = folder / "stand_in"
    stand_in.write_text(f'#!/bin/sh\nshift\nprintf "%s\\n" "$@" > {folder}/words\n')
    stand_in.chmod(0o755)
    shutil.copy(folder / "clip.y4m", folder / "-x.y4m")
    environment = enc.environment | {"AV1PART_PYTHON": str(stand_in)}
    words = [enc.program, "-o", "a.ivf", "--bundle", "-b", "--cpu-used", "6", "--", "-x.y4m"]
    assert subprocess.run(words, cwd=folder, env=environment, capture_output=True).returncode == 4
    assert (folder / "words").read_text().split()[:4] == ["predict", "./-x.y4m", "--bundle", "./-b"]
