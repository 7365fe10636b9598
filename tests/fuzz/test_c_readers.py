"""Damaged maps and blobs through the readers in C, under sanitisers; maps beside Python's reader: both accept one, or
neither. Y4M: tests/encoder/test_y4m_fuzz.py."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from encoder.partition_map import read_partition_map
from errors import InputError
from tests.encoder.test_partition_map_c import as_numbers, random_map, write
from tests.export.c.test_hardening import fuzz, fuzzer, small_blobs
from tests.fuzz import media
from tests.fuzz.test_formats import FEW, MANY
from tests.helpers import REPO

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
__all__ = ["fuzzer", "small_blobs"]

ENCODER = REPO / "encoder"
WARNINGS = ("-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror")
SANITISERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_AT_ONCE = 100
counts = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Gives what a reader in C prints of files: printed(main, source, paths)."""
    folder = tmp_path_factory.mktemp("readers")

    def lines(main: Path, source: Path, paths: list[Path]) -> list[str]:
        program = folder / main.stem
        if not program.exists():
            places = [f"-I{ENCODER}", f"-I{REPO / 'export' / 'c' / 'source'}"]
            subprocess.run(["cc", *WARNINGS, *SANITISERS, *places, "-o", program, main, source], check=True)
        done = subprocess.run([program, *paths], capture_output=True, text=True, timeout=20 * _AT_ONCE)
        seen = done.stdout.splitlines()
        assert done.returncode == 0, f"{paths[min(len(seen), len(paths) - 1)]}: {done.stderr[-3000:]}"
        return seen

    return lines


def damaged(folder: Path, name: str, numbers: range, change, good: list[bytes]) -> list[Path]:
    """Files of these numbers."""
    paths = []
    for number in numbers:
        rng = Random(f"{name} in C {number}")
        paths.append(folder / f"{number}.{name}")
        paths[-1].write_bytes(change(rng, rng.choice(good)))
    return paths


@counts
def test_maps(printed, tmp_path, count):
    good = []
    for seed in range(4):
        write(tmp_path / "good.apm", random_map(seed, probability=bool(seed % 2)))
        good.append((tmp_path / "good.apm").read_bytes())
    main, source = REPO / "tests" / "encoder" / "map_text.c", ENCODER / "partition_map.c"
    accepted = 0
    for start in range(0, count, _AT_ONCE):
        paths = damaged(tmp_path, "apm", range(start, start + _AT_ONCE), media.map_file, good)
        for path, line in zip(paths, printed(main, source, paths), strict=True):
            try:
                expected = " ".join(map(str, as_numbers(read_partition_map(path))))
            except InputError:
                expected = None
            accepted += expected is not None
            ended_well = line.split()[-1] == "1"
            assert (line == expected) if expected else not ended_well, path
            path.unlink()
    assert 0.02 * count < accepted < 0.9 * count


@counts
def test_blobs(fuzzer, small_blobs, count):
    fuzz(fuzzer, small_blobs, count)
