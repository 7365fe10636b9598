"""Y4M headers as av1part-enc reads them: the table that the Python reader keeps to as well."""

from __future__ import annotations

import re
import struct
import subprocess

import pytest

from tests.encodes import needs_libaom
from tests.y4m_headers import FRAME_LINES, HEADERS, READ, file_of

pytestmark = needs_libaom


def encode(program, source, output):
    words = [program, source, "-o", output, "--cpu-used", "9"]
    return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=60)


@pytest.mark.parametrize("name", HEADERS)
def test_headers(encoder_program, tmp_path, name):
    header, source, output = HEADERS[name], tmp_path / "clip.y4m", tmp_path / "a.ivf"
    source.write_bytes(file_of(header))
    done = encode(encoder_program, source, output)
    if header.reads is None or not header.encoder:
        assert done.returncode == 3 and not output.exists()
        first, *rest = done.stderr.splitlines()
        assert first.startswith("error: ") and re.search(header.says, first), first
        assert len(rest) <= 1 and all(line.startswith("hint: ") for line in rest)
        return
    assert done.returncode == 0, done.stderr
    stream = output.read_bytes()
    width, height, _, _ = header.reads
    assert struct.unpack_from("<2H2I", stream, 12) == (width, height, *header.rate)


def test_depth_chroma_and_range_reach_the_stream(encoder_program, tmp_path):
    """Decoded by libaom: what it says of the frames."""
    from encoder.bitstream import read_temporal_units
    from encoder.libaom.library import Libaom

    for name in ("10 bit", "mono", "mono, 10 bit", "no chroma"):
        header = READ[name]
        (tmp_path / "clip.y4m").write_bytes(file_of(header))
        assert encode(encoder_program, tmp_path / "clip.y4m", tmp_path / "a.ivf").returncode == 0
        (frame,) = Libaom().decode(read_temporal_units(tmp_path / "a.ivf"))
        assert frame.bit_depth == header.reads[2]
    streams = {}
    for name in ("as most programs write it", "full range", "limited range", "mono", "as most programs write it"):
        (tmp_path / "clip.y4m").write_bytes(file_of(READ[name]))
        assert encode(encoder_program, tmp_path / "clip.y4m", tmp_path / "a.ivf").returncode == 0
        streams[name] = (tmp_path / "a.ivf").read_bytes()
    assert streams["limited range"] == streams["as most programs write it"]
    assert len({streams[name] for name in ("full range", "limited range", "mono")}) == 3


def test_interlaced_files_come_with_a_hint(encoder_program, tmp_path):
    (tmp_path / "clip.y4m").write_bytes(file_of(HEADERS["top field first"]))
    done = encode(encoder_program, tmp_path / "clip.y4m", tmp_path / "a.ivf")
    assert "hint: make whole frames" in done.stderr


@pytest.mark.parametrize("name", FRAME_LINES)
@pytest.mark.parametrize("which", [0, 1], ids=["first frame", "second frame"])
def test_frame_lines(encoder_program, tmp_path, name, which):
    line, is_read = FRAME_LINES[name]
    header = READ["no rate"]
    whole, odd = file_of(header), file_of(header, frame_line=line)[len(header.line) + 1 :]
    data = whole + odd if which else header.line + b"\n" + odd
    (tmp_path / "clip.y4m").write_bytes(data)
    done = encode(encoder_program, tmp_path / "clip.y4m", tmp_path / "a.ivf")
    assert done.returncode == (0 if is_read else 3), done.stderr
    assert (tmp_path / "a.ivf").exists() == is_read


@pytest.mark.parametrize("how", ["--", "./", "absolute"])
def test_a_name_that_begins_with_a_dash(encoder_program, tmp_path, how):
    (tmp_path / "-g.y4m").write_bytes(file_of(READ["no rate"]))
    name = {"--": ["--", "-g.y4m"], "./": ["./-g.y4m"], "absolute": [tmp_path / "-g.y4m"]}[how]
    words = [encoder_program, "-o", "-g.ivf", "--cpu-used", "9", *name]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True).returncode == 0
    assert (tmp_path / "-g.ivf").stat().st_size > 32


def test_a_y4m_is_not_read_as_raw(encoder_program, tmp_path):
    (tmp_path / "clip.y4m").write_bytes(file_of(READ["no rate"], 20))
    words = [encoder_program, tmp_path / "clip.y4m", "-o", tmp_path / "a.ivf", "--size", "48x32", "--cpu-used", "9"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 3 and "it is a Y4M" in done.stderr and "hint: " in done.stderr
