"""The root Makefile, in a checkout whose path has a space."""

import shutil
import subprocess

import pytest

from tests.helpers import REPO

C_SOURCE = "export/c/source"


@pytest.fixture
def spaced(tmp_path):
    """A checkout with what `make c-api` reads, in a folder with a space in its name."""
    root = tmp_path / "my checkout"
    shutil.copytree(REPO / C_SOURCE, root / C_SOURCE)
    shutil.copy(REPO / "Makefile", root)
    return root


def make(root, *words):
    # `make test` is where this runs, and would have an inner make print where it is.
    command = ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "-u", "MFLAGS", "make", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)


def test_c_api_is_built_where_a_path_has_a_space(spaced):
    done = make(spaced, "c-api", "CFLAGS=-O0")
    assert done.returncode == 0, done.stderr
    assert {"libav1part.a", "libav1part.so", "av1part.pc"} <= {p.name for p in (spaced / "build" / "c").iterdir()}


def test_a_dataset_that_nobody_named_is_asked_for(spaced):
    done = make(spaced, "-n", "-o", "venv", "-o", "libaom", "more-pictures")
    assert done.returncode == 2 and "make more-pictures DATASET=folder" in done.stderr
    done = make(spaced, "-n", "-o", "venv", "-o", "libaom", "more-pictures", "DATASET=/my data")
    assert done.returncode == 0 and '--dataset-dir "/my data"' in done.stdout


def test_help_lists_every_target(spaced):
    told = {line.split()[1] for line in make(spaced).stdout.splitlines()}
    text = (REPO / "Makefile").read_text().replace("\\\n", "")
    (phony,) = (line for line in text.splitlines() if line.startswith(".PHONY:"))
    assert told == set(phony.split()[1:])
