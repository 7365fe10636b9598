"""Commands killed in the middle, 5 times each here and 20 times among the slow tests: nothing whole is lost."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from tests.encodes import needs_libaom
from tests.fuzz import targets
from tests.fuzz.harness import in_process
from tests.fuzz.kill import Loop, run_loop
from tests.fuzz.loops import LOOPS

FEW, MANY = 5, 20
counts = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
_OF_LIBAOM = {"dataset_build"}


@counts
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_libaom if n in _OF_LIBAOM else ()) for n in LOOPS])
def test_commands(name, count, tmp_path):
    found = in_process(run_loop, LOOPS[name], name, tmp_path, count)
    assert not found, f"{found}\nthe folder: {tmp_path}"


@counts
@needs_libaom
def test_the_encoder(encoder_program, tmp_path, count):
    clip, out, recon = tmp_path / "clip.y4m", tmp_path / "out.ivf", tmp_path / "recon.y4m"
    clip.write_bytes(targets.y4m())
    command = (encoder_program, clip, "-o", out, "--recon", recon, "--cpu-used", "6", "--cq-level")
    good: dict[Path, list[bytes]] = {out: [], recon: []}
    for level in ("20", "50", "20"):
        start = time.monotonic()
        subprocess.run([*command, level], check=True, capture_output=True)
        seconds = time.monotonic() - start
        for path, contents in good.items():
            contents.append(path.read_bytes())
    names = {path.name for path in tmp_path.iterdir()}
    rng = Random("av1part-enc")
    for _ in range(count):
        with subprocess.Popen([*command, rng.choice(("20", "50"))], stderr=subprocess.DEVNULL) as running:
            time.sleep(rng.uniform(0, seconds))
            running.kill()
        for path, contents in good.items():
            assert path.read_bytes() in contents, path
    subprocess.run([*command, "20"], check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == names


# --- what a loop must see -----------------------------------------------------------------------------------------


def careless(root: Path) -> Loop:
    """Writes in place, and leaves what it wrote beside."""
    out, one, two = root / "out", b"1" * 10_000, b"2" * 10_000

    def write(content: bytes) -> None:
        with out.open("wb") as file:
            for i in range(0, len(content), 100):
                file.write(content[i : i + 100])
                file.flush()
                (root / "step").write_bytes(b"")
        (root / "step").unlink()

    def whole() -> None:
        assert out.read_bytes() in (one, two), "neither"

    return Loop((lambda: write(one), lambda: write(two)), whole)


def test_a_careless_command_is_seen(tmp_path):
    found = in_process(run_loop, careless, "careless", tmp_path, 20)
    assert "AssertionError: neither" in found
