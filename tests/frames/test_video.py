"""frames/video.py: which stream of a container is read, and what is refused rather than read wrongly."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.bitstream import read_temporal_units
from encoder.obu import TEMPORAL_DELIMITER, walk_obus
from errors import InputError
from frames.frame import FrameFormat
from frames.reader import open_frames
from tests.containers import SMALL, needs_avif, with_cover, write_animated_avif, write_grid_avif, write_video
from tests.encodes import pan

pytest.importorskip("av")
LARGE = FrameFormat(96, 80, 8, "420")


def close_to(found, size):
    """Whether frames are those of `pan`, as a lossy encode keeps them."""
    expected = pan(size, len(found))
    return all(np.abs(a.luma.astype(int) - b.luma).mean() < 8 for a, b in zip(found, expected, strict=True))


def test_a_cover_picture_in_front_is_not_the_video(tmp_path):
    path = with_cover(write_video(tmp_path / "a.mp4", SMALL))
    source = open_frames(path)
    frames = list(source)
    assert source.format == SMALL and len(frames) == 3 and close_to(frames, SMALL)
    assert source.notes == ("stream 1 (mpeg4 64x48) is read, 1 other of pictures or video not",)
    assert open_frames(tmp_path / "a.mp4").notes == ()


@pytest.mark.parametrize("sizes", [(SMALL, LARGE), (LARGE, SMALL)])
def test_of_two_videos_the_larger_is_read(tmp_path, sizes):
    source = open_frames(write_video(tmp_path / "a.mp4", *sizes))
    assert source.format == LARGE and close_to(list(source), LARGE)
    assert f"stream {sizes.index(LARGE)} (mpeg4 96x80) is read" in source.notes[0]


def test_the_one_that_is_marked_as_default_is_read(tmp_path):
    """Players show it, however large the other is."""
    path = write_video(tmp_path / "a.mp4", SMALL, LARGE)
    data = bytearray(path.read_bytes())
    second = data.rfind(b"tkhd")
    data[second + 7] &= ~1  # the track's flag "enabled"
    path.write_bytes(data)
    assert open_frames(path).format == SMALL


def test_of_two_videos_of_one_size_the_first_is_read(tmp_path):
    assert "stream 0 (mpeg4 64x48) is read" in open_frames(write_video(tmp_path / "a.mp4", SMALL, SMALL)).notes[0]


@needs_avif
@pytest.mark.parametrize("alpha", [False, True])
def test_animated_avif_is_read_as_what_moves(tmp_path, alpha):
    source = open_frames(write_animated_avif(tmp_path / "a.avif", SMALL, 3, alpha))
    frames = list(source)
    assert len(frames) == 3 and source.format == SMALL and close_to(frames, SMALL)


@needs_avif
def test_a_picture_in_tiles_is_refused(tmp_path):
    path = write_grid_avif(tmp_path / "a.avif", SMALL, 2, 3)
    for read in (open_frames, lambda p: list(read_temporal_units(p))):
        with pytest.raises(InputError, match="one picture in 6 tiles") as caught:
            read(path)
        assert "avifdec" in caught.value.hint


def test_the_stream_of_labels_is_the_video_too(tmp_path):
    plain = write_video(tmp_path / "a.mp4", SMALL, codec="libsvtav1", count=4)
    expected = list(read_temporal_units(plain))
    assert len(expected) >= 3
    assert list(read_temporal_units(with_cover(plain))) == expected
    assert next(walk_obus(expected[0])).type != TEMPORAL_DELIMITER, "MP4 keeps none: libaom takes units without"


def test_a_cover_picture_alone_is_no_video(tmp_path):
    av = pytest.importorskip("av")
    path = with_cover(write_video(tmp_path / "a.mp4", SMALL))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    data = path.read_bytes().replace(b"trak", b"free")
    path.write_bytes(data)
    with pytest.raises(InputError, match="no video stream, only a cover picture"):
        open_frames(path)


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"x264-params": "tff=1"}), ("mpeg2video", {"flags": "+ildct+ilme"})]
)
def test_interlaced_video_is_refused(tmp_path, codec, options):
    path = write_video(tmp_path / "a.mkv", SMALL, codec=codec, options=options)
    with pytest.raises(InputError, match="is interlaced") as caught:
        list(open_frames(path))
    assert "bwdif" in caught.value.hint


def test_titles_may_be_of_any_encoding(tmp_path):
    path = write_video(tmp_path / "a.mkv", SMALL)
    data = path.read_bytes()
    assert data.count(b"Lavf") > 1
    path.write_bytes(data.replace(b"Lavf", b"La\xe4f"))
    assert len(list(open_frames(path))) == 3


NAMES = ["2024-05-01T12:30:00.mp4", "http:x.mp4", "a b.mp4", "-g.mp4", "%03d.mp4", "ü.mp4", "n" * 250 + ".mp4", ".mp4"]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xff\xfe.mp4"), os.fsdecode(b"a.\xff")])
def test_any_name_will_do(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copy(write_video(tmp_path / "plain.mkv", SMALL), name)
    assert len(list(open_frames(Path(name)))) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nv.mp4\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile v.mp4\n"),
    ],
)
def test_a_file_that_names_others_opens_none(tmp_path, name, text):
    write_video(tmp_path / "v.mp4", SMALL)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="no file that PyAV can read"):
        open_frames(tmp_path / name)


def test_what_ffmpeg_cannot_decode_has_no_size_of_0x0(tmp_path):
    picture = Image.radial_gradient("L").resize((96, 64)).convert("RGB")
    picture.save(tmp_path / "a.webp", save_all=True, append_images=[picture.rotate(9)], duration=40)
    with pytest.raises(InputError, match="the first frame cannot be decoded") as caught:
        open_frames(tmp_path / "a.webp")
    assert "0x0" not in caught.value.message


def test_alpha_is_left_out_and_chroma_kept(tmp_path):
    """Formats with alpha keep depth and chroma of what is beside it."""
    av = pytest.importorskip("av")
    for pixels, expected in (("yuva444p", "444"), ("yuva420p10le", "420"), ("ya8", "mono"), ("gray16le", "mono")):
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            container.mux(stream.encode(av.VideoFrame(64, 48, pixels)))
            container.mux(stream.encode())
        deep = "10" in pixels or "16" in pixels
        assert open_frames(tmp_path / "a.mkv").format == FrameFormat(64, 48, 10 if deep else 8, expected)
