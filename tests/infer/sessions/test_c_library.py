"""Where Python finds the C library, and when it builds it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

import infer.sessions.c_library as c_library
from errors import MissingComponentError
from infer.sessions.c_library import ensure_library, library_path, open_library

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None or shutil.which("make") is None, reason="no C compiler")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with the library's sources alone, compiled without optimising."""
    root = tmp_path / "my checkout"
    shutil.copytree(c_library.SOURCE_DIR, root / "export" / "c" / "source")
    shutil.copy(c_library.CHECKOUT / "Makefile", root)
    monkeypatch.setattr(c_library, "CHECKOUT", root)
    monkeypatch.setattr(c_library, "SOURCE_DIR", root / "export" / "c" / "source")
    monkeypatch.setenv("CFLAGS", "-O0")
    return root


@needs_compiler
def test_it_is_built_once_and_again_when_a_source_is_newer(checkout):
    said: list[str] = []
    path = ensure_library(said.append)
    assert path == checkout / "build" / "c" / "libav1part.so" and len(said) == 1
    assert open_library(path).av1part_version().decode().count(".") == 2
    assert ensure_library(said.append) == path and len(said) == 1
    later = path.stat().st_mtime + 10
    os.utime(c_library.SOURCE_DIR / "av1part_plane.h", (later, later))
    assert ensure_library(said.append) == path and len(said) == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@needs_compiler
def test_make_and_python_take_each_others_place(checkout):
    """`make c-api` leaves a link where Python writes a file."""
    ensure_library(lambda _: None)
    subprocess.run(["make", "-s", "c-api"], cwd=checkout, check=True)
    path = library_path()
    assert path.is_symlink() and ensure_library(pytest.fail) == path
    later = path.stat().st_mtime + 10
    os.utime(c_library.SOURCE_DIR / "av1part.c", (later, later))
    open_library(ensure_library(lambda _: None))


def test_a_checkout_that_cannot_be_written_uses_the_cache(checkout, monkeypatch, tmp_path):
    monkeypatch.setattr(c_library.os, "access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = library_path()
    assert path.is_relative_to(tmp_path / "cache" / "av1-partition-toolkit")
    with (c_library.SOURCE_DIR / "av1part.c").open("a") as file:
        file.write("\n")
    assert library_path() != path, "another version has another place"
    (checkout / "build" / "c").mkdir(parents=True)
    (checkout / "build" / "c" / "libav1part.so").touch()
    assert library_path().is_relative_to(checkout)


def test_a_user_without_a_home(checkout, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(c_library.os, "access", lambda *_: False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(c_library.Path, "home", no_home)
    with pytest.raises(MissingComponentError, match="no cache folder") as caught:
        library_path()
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_without_a_compiler(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingComponentError, match="is not there") as caught:
        ensure_library(pytest.fail)
    assert "make c-api" in caught.value.hint


@needs_compiler
def test_what_does_not_compile(checkout):
    (c_library.SOURCE_DIR / "av1part_plane.h").write_text("#error not today\n")
    with pytest.raises(MissingComponentError, match=r"does not compile: .*not today"):
        ensure_library(lambda _: None)
    assert not library_path().exists()


def test_sources_that_are_not_there(checkout):
    shutil.rmtree(c_library.SOURCE_DIR)
    with pytest.raises(MissingComponentError, match="sources"):
        ensure_library(pytest.fail)
