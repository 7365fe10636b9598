"""A bundle is replaced in one step: killed at any moment, the old one is whole or the new one is."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import export.staging
from bundle import BundleFile, Manifest, open_bundle, write_manifest
from description import BLOCKS
from errors import OutputError, UsageError
from export.staging import staged
from files import sha256_of
from tests.helpers import REPO


def fill(root: Path, *words: str, **metrics) -> None:
    """A small bundle: a file for each word, and the manifest."""
    root.mkdir(parents=True, exist_ok=True)
    for word in words:
        (root / f"{word}.txt").write_text(word)
    files = {f"{w}.txt": BundleFile(sha256_of(root / f"{w}.txt"), "report") for w in words}
    write_manifest(root, Manifest(2, "0" * 64, {}, BLOCKS, {}, files, metrics, {}))


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "bundle", "old", "both")
    return tmp_path / "bundle"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchange(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(export.staging, "_exchange", lambda a, b: False)


@pytest.mark.usefixtures("exchange")
def test_the_new_bundle_takes_the_old_ones_place_and_nothing_else_is_left(root):
    with staged(root) as new:
        fill(new, "new", "both")
        assert names(root) == ["both.txt", "manifest.json", "old.txt"]
        open_bundle(root)
    assert names(root) == ["both.txt", "manifest.json", "new.txt"] and names(root.parent) == ["bundle"]
    assert set(open_bundle(root).manifest.files) == {"new.txt", "both.txt"}


def test_a_folder_that_is_not_there_yet_is_made(tmp_path):
    with staged(tmp_path / "a" / "b") as new:
        fill(new, "new")
    assert set(open_bundle(tmp_path / "a" / "b").manifest.files) == {"new.txt"} and names(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_bundle(root, error):
    before = {p: p.stat().st_mtime_ns for p in root.iterdir()}

    def fail():
        with staged(root) as new:
            (new / "half.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert {p: p.stat().st_mtime_ns for p in root.iterdir()} == before and names(root.parent) == ["bundle"]


def test_an_error_where_nothing_was_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), staged(tmp_path / "bundle"):
        raise RuntimeError
    assert names(tmp_path) == []


def test_what_is_no_part_of_the_bundle_stays(root):
    """A run's folder may hold its bundle too; and people keep notes."""
    (root / "run.json").write_text("{}")
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "deep" / "notes").write_text("mine")
    (root / "link").symlink_to("run.json")
    os.mkfifo(root / "fifo")
    root.chmod(0o750)
    node = (root / "run.json").stat().st_ino
    with staged(root) as new:
        fill(new, "new")
    assert names(root) == ["fifo", "link", "manifest.json", "new.txt", "run.json", "sub"]
    assert (root / "run.json").stat().st_ino == node and (root / "link").readlink() == Path("run.json")
    assert (root / "sub" / "deep" / "notes").read_text() == "mine"
    assert root.stat().st_mode & 0o777 == 0o750


def test_a_link_to_a_folder_stays_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to("bundle")
    with staged(tmp_path / "link") as new:
        fill(new, "new")
    assert (tmp_path / "link").is_symlink() and set(open_bundle(root).manifest.files) == {"new.txt"}


def test_the_working_folder_may_be_the_bundles(root, monkeypatch):
    monkeypatch.chdir(root)
    with staged(Path(".")) as new:
        fill(new, "new")
    Path("beside.txt").write_text("written after it")
    assert names(root) == ["beside.txt", "manifest.json", "new.txt"]


@pytest.mark.parametrize("name", ["x" * 250, "with space", "a$\\frac$b", "[a-z]*", "-g"])
def test_odd_names(tmp_path, name):
    fill(tmp_path / name, "old")
    with staged(tmp_path / name) as new:
        fill(new, "new")
    assert set(open_bundle(tmp_path / name).manifest.files) == {"new.txt"} and names(tmp_path) == [name]


def test_two_exports_into_one_bundle_the_second_is_refused(root):
    with staged(root) as new:
        with pytest.raises(UsageError, match="being written by another export"), staged(root):
            raise AssertionError("never")
        fill(new, "new")
    with staged(root) as new:  # and afterwards it is free
        fill(new, "newer")
    assert set(open_bundle(root).manifest.files) == {"newer.txt"} and names(root.parent) == ["bundle"]


def test_a_mount_point_is_refused(root, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == root)
    with pytest.raises(OutputError, match="mount point") as error, staged(root):
        raise AssertionError("never")
    assert "name a folder in it" in error.value.hint and names(root.parent) == ["bundle"]


def test_a_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "bundle").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"), staged(tmp_path / "bundle"):
        raise AssertionError("never")
    assert names(tmp_path) == ["bundle"]


def test_stale_folders_are_swept_and_those_of_others_are_not(root):
    parent = root.parent
    for name in (".bundle.export-abcd1234/new", ".bundle.export-x.export-abcd1234/new", ".bundle.export-notes"):
        (parent / name).mkdir(parents=True)
    with staged(root) as new:
        fill(new, "new")
    assert names(parent) == [".bundle.export-notes", ".bundle.export-x.export-abcd1234", "bundle"]


def test_a_bundle_set_aside_when_killed_between_two_renames_comes_back(root):
    """Where two folders cannot be exchanged: the old one has been moved, the new one is not there yet."""
    beside = root.parent / ".bundle.export-abcd1234"
    beside.mkdir()
    root.rename(beside / "old")

    def fail():
        with staged(root):
            assert set(open_bundle(root).manifest.files) == {"old.txt", "both.txt"}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert set(open_bundle(root).manifest.files) == {"old.txt", "both.txt"} and names(root.parent) == ["bundle"]


def test_a_second_rename_that_fails_leaves_the_old_bundle(root, monkeypatch):
    def fail(a, b):
        if a.name == "new":
            raise PermissionError(errno.EACCES, "no")
        a.replace(b)

    monkeypatch.setattr(export.staging, "_exchange", lambda a, b: False)
    monkeypatch.setattr(export.staging.os, "rename", fail)
    with pytest.raises(OutputError, match="cannot be written"), staged(root) as new:
        fill(new, "new")
    assert set(open_bundle(root).manifest.files) == {"old.txt", "both.txt"} and names(root.parent) == ["bundle"]


KILLED = """
import sys
sys.path.insert(0, {repo!r})
from pathlib import Path
from export.staging import staged
from tests.export.test_staging import fill
print("ready", flush=True)
while True:
    with staged(Path({root!r})) as new:
        fill(new, "new", "both")
"""


def test_killed_at_any_moment_a_whole_bundle_is_there(root):
    """SIGKILL at a dozen moments of exports that follow one another as fast as they can."""
    for attempt in range(12):
        script = KILLED.format(repo=str(REPO), root=str(root))
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert "both.txt" in open_bundle(root).manifest.files
    with staged(root) as new:
        fill(new, "last")
    assert names(root.parent) == ["bundle"] and names(root) == ["last.txt", "manifest.json"]
