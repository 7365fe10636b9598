"""Damaged Y4M files under the sanitisers: the encoder's reader never crashes, and agrees with Python's on every one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from errors import InputError
from frames.planar import open_y4m
from infer.sessions.c_library import SOURCE_DIR
from tests.helpers import REPO
from tests.y4m_headers import HEADERS, READ, file_of

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
WORDS = (*(bytes([c]) for c in b"WHFCIX \n\0\r:0-"), b"9" * 22, b"p10")
SOUND = [header for header in READ.values() if header.encoder and len(header.line) < 200]


@pytest.fixture(scope="module")
def read_in_c(tmp_path_factory):
    program = tmp_path_factory.mktemp("y4m") / "y4m_text"
    sources = [REPO / "encoder" / f"{name}.c" for name in ("frame_input", "y4m", "numbers")]
    sources.append(Path(__file__).with_name("y4m_text.c"))
    flags = ["-std=c99", "-D_XOPEN_SOURCE=700", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
    sanitisers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    places = [f"-I{REPO / 'encoder'}", f"-I{SOURCE_DIR}"]
    subprocess.run(["cc", *flags, *sanitisers, *places, "-o", program, *sources], check=True)

    def read(paths):
        done = subprocess.run([program, *paths], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
        return [line.split() for line in done.stdout.splitlines()]

    return read


def read_in_python(path):
    """As y4m_text.c prints it, of the formats that the encoder reads."""
    try:
        source = open_y4m(path)
    except InputError:
        return ["-"]
    form, count, end = source.format, 0, []
    if form.chroma not in ("420", "mono") or form.bit_depth == 12:
        return ["-"]
    try:
        for _ in source:
            count += 1
    except InputError:
        end = ["-1"]
    if not count:
        return ["-"]
    return [str(v) for v in (form.width, form.height, form.bit_depth, int(form.chroma == "mono"), count)] + end


def mutated(rng, data: bytes) -> bytes:
    """Bits flipped, bytes and words put in or taken out, most of them in the first line; or the end cut off."""
    data = bytearray(data)
    line = data.index(b"\n") + 8
    for _ in range(rng.integers(1, 3)):
        at = int(rng.integers(line if rng.random() < 0.9 else len(data)))
        kind = rng.integers(5)
        if kind == 0:
            data[at : at + 1] = bytes([data[min(at, len(data) - 1)] ^ 1 << int(rng.integers(8))])
        elif kind == 1:
            data[at:at] = WORDS[rng.integers(len(WORDS))]
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            data[at : at + 1] = WORDS[rng.integers(len(WORDS))]
        else:
            data = data[: max(line, int(rng.integers(len(data) + 1)))]
    return bytes(data)


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_both_readers_agree(tmp_path, read_in_c, count):
    rng, opened, whole = np.random.default_rng(count), 0, 0
    for first in range(0, count, 400):
        paths = [tmp_path / f"{i}.y4m" for i in range(400)]
        for path in paths:
            path.write_bytes(mutated(rng, file_of(SOUND[rng.integers(len(SOUND))], int(rng.integers(1, 3)))))
        for path, seen in zip(paths, read_in_c(paths), strict=True):
            assert seen == read_in_python(path), (first, path.read_bytes()[:200])
            opened, whole = opened + (seen != ["-"]), whole + (seen[-1] != "-1")
    assert count * 0.1 < opened < count * 0.9, "neither all refused nor all read"
    assert whole > count * 0.05


def test_the_table(tmp_path, read_in_c):
    paths = []
    for number, header in enumerate(HEADERS.values()):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(file_of(header, 2))
    for path, header, seen in zip(paths, HEADERS.values(), read_in_c(paths), strict=True):
        assert seen == read_in_python(path)
        assert (seen != ["-"]) == (header.reads is not None and header.encoder)
