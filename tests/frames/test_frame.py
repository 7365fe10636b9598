"""frames/frame.py and its readers: what is written is what is read, and every damage is told."""

import sys
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from errors import InputError, MissingComponentError, UsageError
from frames.frame import CHROMA_SHIFTS, Frame, FrameFormat
from frames.reader import open_frames
from tests.encodes import crop, pan, same, write_y4m
from tests.helpers import random_luma

SMALL = FrameFormat(48, 32, 8, "420")
formats = st.builds(
    FrameFormat,
    st.integers(16, 40),
    st.integers(16, 40),
    st.sampled_from([8, 10, 12]),
    st.sampled_from([*CHROMA_SHIFTS]),
)


def random_frames(size: FrameFormat, count: int) -> list[Frame]:
    return [
        Frame(tuple(random_luma(9 * i + j, c, r, size.bit_depth) for j, (r, c) in enumerate(size.plane_shapes)))
        for i in range(count)
    ]


@settings(max_examples=40, deadline=None)
@given(formats, st.integers(1, 3))
def test_planar_files_come_back(tmp_path_factory, size, count):
    folder, frames = tmp_path_factory.mktemp("planar"), random_frames(size, count)
    write_y4m(folder / "a.y4m", size, frames)
    (folder / "a.yuv").write_bytes(b"".join(p.tobytes() for f in frames for p in f.planes))
    for source in (open_frames(folder / "a.y4m"), open_frames(folder / "a.yuv", size)):
        assert (source.name, source.format, source.frame_count, source.is_picture) == ("a", size, count, False)
        with source:
            assert all(same(a, b) for a, b in zip(source, frames, strict=True))


def test_chroma_of_odd_sizes_is_rounded_up():
    assert FrameFormat(17, 19, 8, "420").plane_shapes == ((19, 17), (10, 9), (10, 9))
    assert FrameFormat(17, 19, 8, "422").plane_shapes == ((19, 17), (19, 9), (19, 9))
    assert FrameFormat(17, 19, 10, "444").frame_bytes == 17 * 19 * 3 * 2


def test_frame_parameters_and_missing_chroma_tag(tmp_path):
    frame = crop(SMALL)
    body = b"".join(p.tobytes() for p in frame.planes)
    path = tmp_path / "a.y4m"
    path.write_bytes(b"YUV4MPEG2 W48 H32\nFRAME Ip\n" + body + b"FRAME\n" + body)
    source = open_frames(path)
    assert source.format == SMALL
    assert source.frame_count is None
    assert all(same(f, frame) for f in source)


@pytest.mark.parametrize("cut", [1, 1000, 48 * 32 * 3 // 2 + 3])
def test_truncated_y4m_says_how_many_frames_were_whole(tmp_path, cut):
    path = write_y4m(tmp_path / "a.y4m", SMALL, pan(SMALL, 3))
    path.write_bytes(path.read_bytes()[:-cut])
    read = []
    with pytest.raises(InputError, match=r"a\.y4m is truncated or damaged: 2 whole frames"):
        read.extend(open_frames(path))
    assert len(read) == 2


HEADERS = {
    "no Y4M file": "YUV5MPEG2 W48 H32",
    "gives no height": "YUV4MPEG2 W48 C420",
    "gives no width": "YUV4MPEG2 Wx H48 C420",
    "C411 is not read": "YUV4MPEG2 W48 H32 C411",
    "C444alpha is not read": "YUV4MPEG2 W48 H32 C444alpha",
    "has 16 bits per sample": "YUV4MPEG2 W48 H32 C420p16",
    "frames are 48x15: height must be 16 to 65536": "YUV4MPEG2 W48 H15 C420",
    "frames are 0x32": "YUV4MPEG2 W0 H32 C420",
    "frames are 65537x32": "YUV4MPEG2 W65537 H32 C420",
}


@pytest.mark.parametrize("expected", HEADERS)
def test_bad_y4m_headers(tmp_path, expected):
    path = write_y4m(tmp_path / "a.y4m", SMALL, [], HEADERS[expected])
    with pytest.raises(InputError, match=expected):
        open_frames(path)


def test_y4m_without_end_of_header_or_frames(tmp_path):
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W48")
    with pytest.raises(InputError, match="0 whole frames"):
        open_frames(tmp_path / "a.y4m")
    with pytest.raises(InputError, match="holds no frame"):
        list(open_frames(write_y4m(tmp_path / "b.y4m", SMALL, [])))


def test_samples_beyond_the_bit_depth(tmp_path):
    size = FrameFormat(16, 16, 10, "mono")
    path = write_y4m(tmp_path / "a.y4m", size, [Frame((np.full((16, 16), 1024, "<u2"),))])
    with pytest.raises(InputError, match="frame 0: sample 1024 does not fit 10 bits"):
        list(open_frames(path))


def test_raw_needs_its_size(tmp_path):
    path = tmp_path / "a.yuv"
    path.write_bytes(bytes(SMALL.frame_bytes - 1))
    with pytest.raises(UsageError, match="does not say its size"):
        open_frames(path)
    with pytest.raises(InputError, match="0 whole frames"):
        open_frames(path, SMALL)
    path.write_bytes(bytes(SMALL.frame_bytes + 5))
    with pytest.raises(InputError, match="1 whole frames, then 5 of 2304 bytes"):
        list(open_frames(path, SMALL))


@pytest.mark.parametrize(
    ("values", "expected"),
    [((15, 16, 8, "420"), "15x16"), ((16, 16, 9, "420"), "9 bits"), ((16, 16, 8, "411"), "'411' is none of")],
)
def test_formats_that_av1_lacks(values, expected):
    with pytest.raises(InputError, match=expected):
        FrameFormat(*values)


def test_grey_pictures_are_monochrome(tmp_path):
    luma = random_luma(1, 40, 24)
    Image.fromarray(luma).save(tmp_path / "a.png")
    source = open_frames(tmp_path / "a.png")
    assert (source.format, source.is_picture) == (FrameFormat(40, 24, 8, "mono"), True)
    assert same(next(iter(source)), Frame((luma,)))


def test_deep_grey_pictures_need_their_depth(tmp_path):
    luma = random_luma(1, 40, 24, 10)
    Image.fromarray(luma).save(tmp_path / "a.png")
    assert same(next(iter(open_frames(tmp_path / "a.png", bit_depth=10))), Frame((luma,)))
    with pytest.raises(InputError, match="16-bit samples"):
        open_frames(tmp_path / "a.png")


def test_colour_pictures_become_420(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (25, 39, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    source = open_frames(tmp_path / "a.png")
    (frame,) = source
    assert source.format == FrameFormat(39, 25, 8, "420")
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    assert np.abs(frame.luma - (0.299 * r + 0.587 * g + 0.114 * b)).max() <= 1
    u = np.pad(128 + 0.564 * (b - (0.299 * r + 0.587 * g + 0.114 * b)), ((0, 1), (0, 1)), "edge")
    slow = np.array([[u[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for x in range(20)] for y in range(13)])
    assert np.abs(frame.planes[1] - slow).max() <= 1.5


def test_packed_420(tmp_path):
    frame = crop(SMALL)
    packed = np.vstack([frame.planes[0], np.hstack(frame.planes[1:])])
    Image.fromarray(packed).save(tmp_path / "a.png")
    source = open_frames(tmp_path / "a.png", packed_420=True)
    assert source.format == SMALL
    assert same(next(iter(source)), frame)
    for bad in (packed[:-1], packed[:, :-1]):
        Image.fromarray(np.ascontiguousarray(bad)).save(tmp_path / "b.png")
        with pytest.raises(InputError, match="even width and a height that 3 divides"):
            open_frames(tmp_path / "b.png", packed_420=True)


def test_unreadable_files(tmp_path):
    for name in ("a.png", "a.jpg", "a.mkv"):
        (tmp_path / name).write_bytes(b"not that")
        with pytest.raises(InputError, match=name):
            open_frames(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        open_frames(tmp_path / "none.y4m")
    Image.fromarray(random_luma(0, 15, 40)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png: frames are 15x40"):
        open_frames(tmp_path / "small.png")


def encode_lossless(path, frames, pixel_format, width, height):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for planes in frames:
            picture = av.VideoFrame(width, height, pixel_format)
            for plane, samples in zip(picture.planes, planes, strict=True):
                row = plane.line_size // samples.dtype.itemsize
                padded = np.zeros((samples.shape[0], row), samples.dtype)
                padded[:, : samples.shape[1]] = samples
                plane.update(padded.tobytes())
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [
        ("yuv420p", FrameFormat(50, 34, 8, "420")),
        ("yuv422p10le", FrameFormat(50, 34, 10, "422")),
        ("yuv444p12le", FrameFormat(33, 34, 12, "444")),
        ("gray", FrameFormat(50, 34, 8, "mono")),
        ("gray10le", FrameFormat(50, 34, 10, "mono")),
    ],
)
def test_video_through_pyav(tmp_path, pixel_format, size):
    frames = pan(size, 3)
    encode_lossless(tmp_path / "a.mkv", [f.planes for f in frames], pixel_format, size.width, size.height)
    with open_frames(tmp_path / "a.mkv") as source:
        assert source.format == size
        assert all(same(a, b) for a, b in zip(source, frames, strict=True))


def test_other_pixel_formats_become_420(tmp_path):
    planes = [random_luma(i, 48, 32) for i in range(3)]
    encode_lossless(tmp_path / "a.mkv", [[np.dstack([*planes, planes[0]]).reshape(32, -1)]], "bgr0", 48, 32)
    source = open_frames(tmp_path / "a.mkv")
    assert source.format == FrameFormat(48, 32, 8, "420") and source.notes == ("its bgr0 is converted to yuv420p",)


def test_video_without_a_whole_frame(tmp_path):
    size = FrameFormat(160, 96, 8, "420")
    encode_lossless(tmp_path / "a.mkv", [f.planes for f in pan(size, 4)], "yuv420p", 160, 96)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(data[:200])
    with pytest.raises(InputError, match=r"b\.mkv is no file that PyAV can read"):
        list(open_frames(tmp_path / "b.mkv"))


def test_sound_alone_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(InputError, match="holds no video stream"):
        open_frames(tmp_path / "a.wav")


def test_size_that_changes_in_mid_video(tmp_path):
    """Two MPEG-1 clips of different size one after the other: what concatenated recordings look like."""
    av = pytest.importorskip("av")
    parts = []
    for width in (64, 96):
        with av.open(str(tmp_path / "part.m1v"), "w", format="mpeg1video") as container:
            stream = container.add_stream("mpeg1video", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame(width, 48, "yuv420p")))
            container.mux(stream.encode())
        parts.append((tmp_path / "part.m1v").read_bytes())
    (tmp_path / "both.m1v").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match=r"frame [23] is 96x48, the first was 64x48"):
        list(open_frames(tmp_path / "both.m1v"))


def test_without_pyav(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(MissingComponentError) as caught:
        open_frames(tmp_path / "a.mp4")
    assert caught.value.hint == "pip install 'av1-partition-toolkit[video]'"
