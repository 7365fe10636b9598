"""The C of all folders has one style (/.clang-format), and keeps to the sizes of CONTRIBUTING.md."""

import shutil
import subprocess
from itertools import pairwise

import pytest

from tests.helpers import REPO

FOLDERS = ("benchmarks", "encoder", "export", "tests")
SOURCES = sorted(p for folder in FOLDERS for p in (REPO / folder).rglob("*") if p.suffix in (".c", ".h", ".cpp"))
LONGEST_LINE, LONGEST_FILE, LONGEST_FUNCTION = 120, 400, 80


def functions(lines):
    """Length of every function, by the line of its opening brace: of what stands alone in the first column."""
    braces = [(i, line) for i, line in enumerate(lines) if line in ("{", "}")]
    return {start: end - start for (start, a), (end, b) in pairwise(braces) if (a, b) == ("{", "}")}


def test_sizes():
    assert len(SOURCES) > 25
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= LONGEST_FILE, path
        assert not [line for line in lines if len(line) > LONGEST_LINE], path
        assert not {start for start, length in functions(lines).items() if length > LONGEST_FUNCTION}, path


def test_what_is_a_function():
    assert functions("int f(void)\n{\n    if (x) {\n    }\n}\nstruct s {\n};".splitlines()) == {1: 3}


def test_clang_format_has_nothing_to_say():
    if shutil.which("clang-format") is None:
        pytest.skip("clang-format is not installed")
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *SOURCES], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
