"""encoder/libaom/library.py: every format, every cq-level, streams with hidden frames."""

import gc
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from encoder.bitstream import read_temporal_units
from encoder.libaom.library import QINDEX_OF_CQ, EncodeOptions, Libaom, cq_of_qindex, ensure_libaom, libaom_dir
from errors import InputError, MissingComponentError, OutputError, UsageError
from frames.frame import CHROMA_SHIFTS, FrameFormat
from frames.reader import open_frames
from partition import block_origins, map_shape
from tests.encodes import PROGRAMS, crop, needs_libaom, pan, write_y4m
from tests.helpers import REPO

FAST = EncodeOptions(cpu_used=9)
PIXELS = FrameFormat(64, 48, 8, "420")


@pytest.fixture(scope="module")
def libaom():
    return Libaom()


def test_cq_levels():
    assert [cq_of_qindex(q) for q in (0, 80, 128, 172, 220, 244, 249, 255)] == [0, 20, 32, 43, 55, 61, 62, 63]
    assert [cq_of_qindex(q) for q in QINDEX_OF_CQ] == list(range(64))


@pytest.mark.parametrize(("qindex", "nearest"), [(81, 80), (247, 249), (251, 249), (254, 255), (256, 255), (-1, 0)])
def test_unreachable_qindex_names_the_nearest(qindex, nearest):
    with pytest.raises(UsageError, match=f"nearest is {nearest}$"):
        cq_of_qindex(qindex)


def test_preset_out_of_range():
    with pytest.raises(UsageError, match="0 to 9"):
        EncodeOptions(10)


def test_missing_library(tmp_path):
    with pytest.raises(MissingComponentError, match="is not there") as caught:
        Libaom(tmp_path)
    assert caught.value.hint == "build it with: make libaom"


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    monkeypatch.delenv("AV1PART_LIBAOM_DIR", raising=False)
    assert libaom_dir() == Path("/elsewhere/av1-partition-toolkit/libaom-3.12.1")
    monkeypatch.setenv("AV1PART_LIBAOM_DIR", "/given")
    assert libaom_dir() == Path("/given")


def test_a_user_without_a_home_has_it_in_the_checkout(monkeypatch):
    for name in ("AV1PART_LIBAOM_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert libaom_dir() == REPO / "build" / "libaom-3.12.1"


@pytest.mark.parametrize(
    ("script", "error", "message", "hint"),
    [
        ("echo build_libaom: nothing works >&2; echo hint: try again >&2; exit 3", InputError, "nothing works", "try"),
        ("echo build_libaom: nothing works >&2; exit 1", OutputError, "nothing works", ""),
        ("echo oops >&2; exit 127", MissingComponentError, "ended with 127: oops", "Windows line ends"),
        ("exit 2", MissingComponentError, "ended with 2: it said nothing", "Windows line ends"),
    ],
)
def test_why_libaom_cannot_be_built(tmp_path, monkeypatch, script, error, message, hint):
    """The script needs no right to be run, and a reason that it does not give is not made up."""
    monkeypatch.setenv("AV1PART_LIBAOM_DIR", str(tmp_path / "libaom"))
    monkeypatch.setattr("encoder.libaom.library.__file__", str(tmp_path / "library.py"))
    (tmp_path / "build_libaom.sh").write_text(script)
    with pytest.raises(error, match=message) as caught:
        ensure_libaom(lambda text: None)
    assert type(caught.value) is error and (hint in caught.value.hint if hint else caught.value.hint == "")


@needs_libaom
@pytest.mark.parametrize("chroma", CHROMA_SHIFTS)
@pytest.mark.parametrize("bit_depth", [8, 10, 12])
@pytest.mark.parametrize("size", [(64, 48), (77, 51), (16, 16)])
def test_every_format_survives(libaom, chroma, bit_depth, size):
    frame_format = FrameFormat(*size, bit_depth, chroma)
    frame = crop(frame_format)
    (coded,) = libaom.decode([libaom.encode(frame, frame_format, 10, FAST)])
    assert (coded.qindex, coded.intra, coded.varies_qindex, coded.bit_depth) == (40, True, False, bit_depth)
    assert coded.bsize.shape == map_shape(*size)
    assert np.array_equal(coded.bsize, coded.bsize[block_origins(coded.bsize)])
    assert coded.luma.dtype == frame_format.dtype
    difference = np.abs(coded.luma.astype(int) - frame.luma.astype(int))
    assert difference.mean() < 2 << (bit_depth - 8)


@needs_libaom
def test_every_cq_level_gives_its_qindex(libaom):
    frame = crop(FrameFormat(16, 16, 8, "420"))
    for cq, qindex in enumerate(QINDEX_OF_CQ):
        (coded,) = libaom.decode([libaom.encode(frame, FrameFormat(16, 16, 8, "420"), cq, FAST)])
        assert coded.qindex == qindex


@needs_libaom
def test_threads_do_not_disturb_each_other(libaom):
    frames = pan(PIXELS, 8)

    def encode(frame):
        stream = libaom.encode(frame, PIXELS, 20, FAST)
        return stream, next(libaom.decode([stream])).bsize.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode, frames * 3)) == [encode(f) for f in frames] * 3


@needs_libaom
def test_memory_is_given_back(libaom):
    size = FrameFormat(448, 240, 8, "420")
    stream = libaom.encode(crop(size), size, 50, FAST)

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def decode(times):
        for _ in range(times):
            list(libaom.decode([stream]))
        return resident()

    # The grid alone has 350 kB.
    assert decode(100) - decode(20) < 8e6


@needs_libaom
def test_damaged_streams_are_refused(libaom):
    streams = [libaom.encode(frame, PIXELS, 20, FAST) for frame in pan(PIXELS, 2)]
    with pytest.raises(InputError, match="1 frames could be decoded, then libaom says"):
        list(libaom.decode([streams[0], streams[1][:-40]]))
    with pytest.raises(InputError, match="0 frames could be decoded"):
        list(libaom.decode([b"\x12\x00\x32\x05abcde"]))


@pytest.fixture(scope="module")
def hidden_frames(tmp_path_factory):
    """A clip of 24 frames in libaom's ordinary two-pass mode: the folder with clip.ivf, clip.obu, decoded clip.yuv."""
    folder = tmp_path_factory.mktemp("hidden")
    write_y4m(folder / "clip.y4m", PIXELS, pan(PIXELS, 24))
    for kind in ("ivf", "obu"):
        options = ["--cpu-used=5", "--lag-in-frames=19", "--end-usage=q", "--cq-level=30", f"--{kind}", "-q"]
        command = [PROGRAMS / "aomenc", folder / "clip.y4m", *options, "-o", folder / f"clip.{kind}"]
        subprocess.run(command, check=True, capture_output=True)
    command = [PROGRAMS / "aomdec", folder / "clip.ivf", "--rawvideo", "-o", folder / "clip.yuv"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@needs_libaom
@pytest.mark.parametrize("kind", ["ivf", "obu"])
def test_hidden_frames_come_with_their_blocks_when_shown(libaom, hidden_frames, kind):
    frames = list(libaom.decode(read_temporal_units(hidden_frames / f"clip.{kind}")))
    shown = list(open_frames(hidden_frames / "clip.yuv", PIXELS))
    assert [f.intra for f in frames] == [True] + 23 * [False]
    assert len({f.qindex for f in frames}) > 3, "no frame pyramid, so none was hidden"
    for coded, frame in zip(frames, shown, strict=True):
        assert np.array_equal(coded.luma, frame.luma)
        assert coded.bsize.shape == map_shape(64, 48)
