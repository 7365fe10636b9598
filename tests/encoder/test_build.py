"""The encoder builds wherever a checkout lies and whatever rights its scripts have lost."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from encoder.libaom.library import libaom_dir
from tests.encoder.restricted import SIZE
from tests.encodes import needs_libaom, pan, write_y4m
from tests.helpers import REPO


@needs_libaom
def test_spaces_and_scripts_that_may_not_be_run(tmp_path):
    """`make encoder` in a checkout and with a libaom whose paths hold spaces."""
    root, libaom = tmp_path / "my checkout", tmp_path / "lib aom"
    for folder in ("encoder", "export/c/source"):
        shutil.copytree(REPO / folder, root / folder)
    shutil.copy(REPO / "Makefile", root)
    for script in root.rglob("*.sh"):
        script.chmod(0o644)
    libaom.symlink_to(libaom_dir())
    environment = os.environ | {"AV1PART_LIBAOM_DIR": str(libaom), "CFLAGS": "-O0"}
    done = subprocess.run(["make", "encoder"], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    clip = write_y4m(tmp_path / "clip.y4m", SIZE, pan(SIZE, 1))
    program = root / "build" / "encoder" / "av1part-enc"
    subprocess.run([program, clip, "-o", tmp_path / "a.ivf", "--cpu-used", "9"], check=True, capture_output=True)
    # What it would start to predict is this checkout's.
    assert f"{root}/cli.py".encode() in program.read_bytes()


@pytest.mark.parametrize("folder", ["encoder", "export/c/source"])
def test_a_build_folder_with_a_space_is_refused(tmp_path, folder):
    done = subprocess.run(["make", "-C", REPO / folder, f"BUILD={tmp_path}/a b"], capture_output=True, text=True)
    assert done.returncode == 2 and "holds a space" in done.stderr


@pytest.mark.skipif(not (REPO / ".git").exists(), reason="not a checkout of git")
def test_line_ends_are_fixed():
    """A checkout on Windows must not give scripts, makefiles and C other line ends, nor touch binary files."""
    files = subprocess.check_output(["git", "ls-files"], cwd=REPO, text=True).splitlines()
    told = subprocess.check_output(["git", "check-attr", "text", "eol", "--", *files], cwd=REPO, text=True)
    attributes = dict(line.rsplit(": ", 1) for line in told.splitlines())
    endings = {".sh": "lf", ".c": "lf", ".h": "lf", ".py": "lf", "Makefile": "lf", "run": "lf"}
    seen = set()
    for name in files:
        last = name.rsplit("/", 1)[-1]
        kind = last if "." not in last else "." + last.rsplit(".", 1)[1]
        if kind in endings:
            assert attributes[f"{name}: eol"] == "lf", name
            assert b"\r" not in (REPO / name).read_bytes(), name
            seen.add(kind)
        elif kind in (".png", ".npz", ".onnx", ".safetensors", ".av1part"):
            assert attributes[f"{name}: text"] == "unset", name
    assert seen == set(endings)
