"""frames/reader.py: what a file is taken for, and options that are not of its kind."""

import os
import threading

import numpy as np
import pytest
from PIL import Image

from errors import InputError, UsageError
from frames.frame import Frame, FrameFormat, bands, hash_plane, is_constant
from frames.reader import Kind, kind_of, open_frames
from tests.encodes import crop, pan, write_y4m
from tests.helpers import random_luma

SIZE = FrameFormat(64, 48, 8, "420")
KINDS = {
    # suffix, first bytes, size given: kind
    "Y4M under any name": ("a.bin", b"YUV4MPEG2 W64", False, Kind.Y4M),
    "Y4M under the name of raw video": ("a.yuv", b"YUV4MPEG2 W64", True, Kind.Y4M),
    "no Y4M under its name": ("a.y4m", b"hello", False, Kind.Y4M),
    "raw by its name": ("a.yuv", b"hello", False, Kind.RAW),
    "raw by its size": ("a.i420", b"hello", True, Kind.RAW),
    "raw without a suffix": ("a", b"hello", True, Kind.RAW),
    "raw that begins as JPEG does": ("a.yuv", b"\xff\xd8\xff\xff", True, Kind.RAW),
    "PNG under any name": ("a.mp4", b"\x89PNG\r\n\x1a\n", False, Kind.PICTURE),
    "PNG under the name of raw video": ("a.raw", b"\x89PNG\r\n\x1a\n", True, Kind.PICTURE),
    "JPEG under any name": ("a", b"\xff\xd8\xff\xe0", False, Kind.PICTURE),
    "no picture under its name": ("a.jpg", b"hello", False, Kind.PICTURE),
    "pictures one after another": ("a.mjpeg", b"\xff\xd8\xff\xe0", False, Kind.VIDEO),
    "animated PNG": ("a.apng", b"\x89PNG\r\n\x1a\n", False, Kind.VIDEO),
    "Matroska with a size": ("a.mkv", b"\x1aE\xdf\xa3", True, Kind.VIDEO),
    "MP4 with a size": ("a.mp4", b"\0\0\0\x20ftypisom", True, Kind.VIDEO),
    "what nobody knows": ("a.xyz", b"hello", False, Kind.VIDEO),
}


@pytest.mark.parametrize("case", KINDS)
def test_kinds(tmp_path, case):
    name, head, sized, expected = KINDS[case]
    (tmp_path / name).write_bytes(head)
    assert kind_of(tmp_path / name, sized) is expected


def test_y4m_is_read_whatever_its_name(tmp_path):
    write_y4m(tmp_path / "a.y4m", SIZE, pan(SIZE, 2)).rename(tmp_path / "a.yuv")
    assert len(list(open_frames(tmp_path / "a.yuv"))) == 2


def test_raw_video_is_read_whatever_its_name(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"".join(p.tobytes() for p in crop(SIZE).planes))
    assert len(list(open_frames(path, SIZE))) == 1


@pytest.fixture
def files(tmp_path):
    write_y4m(tmp_path / "a.y4m", SIZE, pan(SIZE, 1))
    (tmp_path / "a.yuv").write_bytes(b"".join(p.tobytes() for p in crop(SIZE).planes))
    Image.fromarray(random_luma(0, 64, 48)).save(tmp_path / "a.png")
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("a.y4m", {"raw": SIZE}, "--size is of raw video, and .* is Y4M"),
        ("a.png", {"raw": SIZE}, "--size is of raw video, and .* is a picture"),
        ("a.mkv", {"raw": SIZE}, "--size is of raw video, and .* is video"),
        ("a.y4m", {"packed_420": True}, "--packed-420 is of pictures, and .* is Y4M"),
        ("a.mkv", {"packed_420": True}, "--packed-420 is of pictures, and .* is video"),
        ("a.yuv", {"raw": SIZE, "packed_420": True}, "--packed-420 is of pictures"),
        ("a.y4m", {"bit_depth": 10}, "--bit-depth 10, and .* is 64x48 420 8 bit"),
        ("a.png", {"bit_depth": 12}, "--bit-depth 12, and the samples"),
        ("a.yuv", {}, "does not say its size"),
    ],
)
def test_options_of_another_kind_are_refused(files, name, options, expected):
    with pytest.raises(UsageError, match=expected):
        open_frames(files / name, **options)


def test_a_depth_that_is_said_rightly_is_no_error(files):
    assert open_frames(files / "a.y4m", bit_depth=8).format == SIZE
    assert open_frames(files / "a.yuv", SIZE, bit_depth=8).format == SIZE


def test_a_fifo_is_refused_for_what_it_is_and_nobody_waits(tmp_path):
    os.mkfifo(tmp_path / "a.y4m")
    for _ in range(2):
        with pytest.raises(InputError, match="is a FIFO, not a regular file"):
            open_frames(tmp_path / "a.y4m")
        writer = threading.Thread(target=lambda: (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 "), daemon=True)
        writer.start()


def test_folders_devices_and_nothing(tmp_path):
    (tmp_path / "link.y4m").symlink_to("/dev/zero")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, expected in ((".", "is a folder"), ("link.y4m", "is a device"), ("empty.png", "is empty")):
        with pytest.raises(InputError, match=expected):
            open_frames(tmp_path / name)


# --- planes in bands -------------------------------------------------------------------------------------------------


def test_bands_are_the_plane(monkeypatch):
    monkeypatch.setattr("frames.frame._BAND_SAMPLES", 100)
    plane = random_luma(3, 40, 33)
    assert np.array_equal(np.concatenate(list(bands(plane))), plane)
    assert [len(band) for band in bands(plane)] == [2] * 16 + [1]
    whole = hash_plane(np.asfortranarray(plane))
    monkeypatch.undo()
    assert whole == hash_plane(plane) and whole != hash_plane(plane[::-1])


@pytest.mark.parametrize("place", [(0, 0), (5, 7), (32, 39)])
def test_one_sample_makes_a_plane_no_constant(monkeypatch, place):
    monkeypatch.setattr("frames.frame._BAND_SAMPLES", 100)
    plane = np.full((33, 40), 77, np.uint8)
    assert is_constant(plane)
    plane[place] = 78
    assert not is_constant(plane)
    assert Frame((plane,)).luma is plane
