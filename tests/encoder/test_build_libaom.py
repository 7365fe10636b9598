"""encoder/libaom/build_libaom.sh: what it refuses, and that a finished build is left alone.

Building itself is CI's set-up."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from encoder.libaom.library import ensure_libaom, libaom_dir
from errors import MissingComponentError
from tests.encodes import needs_libaom
from tests.helpers import REPO

SCRIPT = REPO / "encoder" / "libaom" / "build_libaom.sh"
# What the script itself needs, without compilers.
UTILITIES = ("sh", "uname", "nproc", "dirname", "mktemp", "rm", "mkdir", "sha256sum", "cut", "cat", "echo", "rmdir")


def run(*arguments, **environment):
    return subprocess.run(
        ["sh", SCRIPT, *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def bare_path(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in UTILITIES:
        found = next(p for p in (Path("/usr/bin") / name, Path("/bin") / name) if p.exists())
        (folder / name).symlink_to(found)
    return str(folder)


def test_missing_tools_name_their_packages(tmp_path, bare_path):
    done = run(PATH=bare_path, AV1PART_LIBAOM_DIR=str(tmp_path / "libaom"))
    assert done.returncode == 4
    assembler = " nasm" if platform.machine() == "x86_64" else ""
    assert done.stderr.splitlines()[-1] == f"hint: apt-get install gcc g++ cmake ninja-build perl{assembler}"
    assert not list(tmp_path.glob("libaom*"))


def test_missing_tools_end_the_first_dataset_build(tmp_path, bare_path, monkeypatch):
    monkeypatch.setenv("PATH", bare_path)
    monkeypatch.setenv("AV1PART_LIBAOM_DIR", str(tmp_path / "libaom"))
    said = []
    with pytest.raises(MissingComponentError, match="cannot build libaom, not found: cc") as caught:
        ensure_libaom(said.append)
    assert caught.value.hint.startswith("apt-get install gcc")
    assert len(said) == 1


def test_wrong_tarball(tmp_path):
    if not all(map(shutil.which, ("cc", "c++", "cmake", "perl", "nasm"))):
        pytest.skip("not everything that builds libaom is installed")
    (tmp_path / "a.tar.gz").write_bytes(b"something else")
    done = run("--tarball", tmp_path / "a.tar.gz", AV1PART_LIBAOM_DIR=str(tmp_path / "libaom"))
    assert done.returncode == 3
    assert "expected 40c929a41b2a59c2" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("keep")
    done = run(AV1PART_LIBAOM_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "is no libaom build of this script" in done.stderr
    assert (tmp_path / "mine").read_text() == "keep"


def test_places(tmp_path):
    """Of what this user keeps: as encoder.libaom.library.libaom_dir; without a home, in the checkout."""
    told = {}
    for name, settings in {
        "given": {"AV1PART_LIBAOM_DIR": "/given place"},
        "cache": {"XDG_CACHE_HOME": "/cache place"},
        "home": {"HOME": "/home of somebody"},
        "none": {},
    }.items():
        getent = tmp_path / name / "getent"
        getent.parent.mkdir()
        getent.write_text("#!/bin/sh\nexit 2\n")  # a user id that no password file knows
        getent.chmod(0o755)
        environment = {"PATH": f"{getent.parent}:{os.environ['PATH']}", **settings}
        done = subprocess.run(["sh", SCRIPT, "--print-dir"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told[name] = done.stdout.rstrip("\n")
    assert told == {
        "given": "/given place",
        "cache": "/cache place/av1-partition-toolkit/libaom-3.12.1",
        "home": "/home of somebody/.cache/av1-partition-toolkit/libaom-3.12.1",
        "none": str(REPO / "build" / "libaom-3.12.1"),
    }


def test_usage():
    assert run("--fast").returncode == 2
    assert run("--tarball").returncode == 2
    assert run("--print-dir", AV1PART_LIBAOM_DIR="/given").stdout == "/given\n"


@needs_libaom
def test_finished_build_is_left_alone():
    def written():
        # Not when it was read, which others may do at any time.
        found = (libaom_dir() / "build-info.txt").stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    before = written()
    done = run()
    assert done.returncode == 0
    assert done.stdout == f"libaom 3.12.1 is built: {libaom_dir()}\n"
    assert written() == before


@needs_libaom
@pytest.mark.parametrize("program", ["aomenc", "aomdec"])
def test_programs_run(program):
    done = subprocess.run([libaom_dir() / "bin" / program, "--help"], capture_output=True, text=True)
    assert "3.12.1" in done.stdout + done.stderr
