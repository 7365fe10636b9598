"""frames/planar.py against the common table of Y4M headers, and files that claim more than they hold."""

import os
import resource
import subprocess
import sys

import pytest

from errors import InputError
from frames.frame import MAX_SIZE, FrameFormat
from frames.reader import open_frames
from tests.helpers import REPO
from tests.y4m_headers import FRAME_LINES, READ, REFUSED, file_of, sound


@pytest.mark.parametrize("case", READ)
def test_headers_that_are_read(tmp_path, case):
    path = tmp_path / "a.y4m"
    path.write_bytes(file_of(READ[case], 2))
    source = open_frames(path)
    width, height, bit_depth, chroma = READ[case].reads
    assert source.format == FrameFormat(width, height, bit_depth, chroma)
    assert source.frame_count == 2 and len(list(source)) == 2


@pytest.mark.parametrize("case", REFUSED)
def test_headers_that_are_refused(tmp_path, case):
    path = tmp_path / "a.y4m"
    path.write_bytes(file_of(REFUSED[case]))
    with pytest.raises(InputError, match=REFUSED[case].says) as caught:
        open_frames(path)
    assert len(caught.value.message) < 300


def test_interlaced_files_are_told_how_to_go_on(tmp_path):
    path = tmp_path / "a.y4m"
    path.write_bytes(file_of(REFUSED["top field first"]))
    with pytest.raises(InputError) as caught:
        open_frames(path)
    assert "bwdif" in caught.value.hint and "setfield=prog" in caught.value.hint


@pytest.mark.parametrize("case", FRAME_LINES)
def test_lines_before_frames(tmp_path, case):
    line, is_read = FRAME_LINES[case]
    path = tmp_path / "a.y4m"
    path.write_bytes(file_of(sound("F25:1 C420"), 2, line))
    if is_read:
        assert len(list(open_frames(path))) == 2
    else:
        with pytest.raises(InputError, match="0 whole frames, then comes no FRAME line"):
            list(open_frames(path))


def test_headers_that_claim_gigabytes_allocate_nothing(tmp_path):
    """A frame of 12 GB in a file of a hundred bytes, and in a sparse file, in a process that may have 2 GB."""
    header = f"YUV4MPEG2 W{MAX_SIZE} H{MAX_SIZE} C420p10\nFRAME\n".encode()
    (tmp_path / "short.y4m").write_bytes(header + bytes(99))
    (tmp_path / "long.y4m").write_bytes(header)
    os.truncate(tmp_path / "long.y4m", 15 << 30)
    code = (
        "import sys, pathlib; from frames.reader import open_frames; from errors import *\n"
        "for name in sys.argv[1:]:\n"
        "    try: list(open_frames(pathlib.Path(name)))\n"
        "    except InputError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "short.y4m", tmp_path / "long.y4m"],
        cwd=REPO,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    short, long = done.stdout.splitlines()
    assert "short.y4m is truncated or damaged: 0 whole frames, then 99 of 12884901888 bytes" in short
    assert "long.y4m: no memory for a frame of 65536x65536" in long
