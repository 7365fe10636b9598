"""frames/pictures.py: deep colour, alpha, orientation, and pictures that claim more than they hold."""

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest
from PIL import Image

from errors import InputError, MissingComponentError, UsageError
from frames.frame import FrameFormat
from frames.reader import open_frames
from tests.encodes import crop, same
from tests.helpers import random_luma

SIZE = FrameFormat(64, 48, 8, "mono")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, samples, colour_type: int, claim=None):
    """A PNG of 16 bits a sample, [H, W, C] in the order of the colour type; `claim` is what the header says."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", *(claim or (width, height)), 16, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def deep(channels: int, bit_depth: int = 10):
    """A real picture with low bits, and others beside it, uint16 [48, 64, channels]."""
    luma = crop(FrameFormat(64, 48, bit_depth, "mono")).luma
    return np.stack([luma, luma[::-1], luma[:, ::-1], luma // 3][:channels], 2).astype(np.uint16)


COLOURS = {"rgb": (3, 2), "rgba": (4, 6)}


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize("bit_depth", [10, 12])
def test_deep_colour_keeps_its_depth(tmp_path, kind, bit_depth):
    pytest.importorskip("av")
    channels, colour_type = COLOURS[kind]
    samples = deep(channels, bit_depth)
    source = open_frames(write_png(tmp_path / "a.png", samples, colour_type), bit_depth=bit_depth)
    (frame,) = source
    assert source.format == FrameFormat(64, 48, bit_depth, "420") and source.is_picture
    r, g, b = (samples[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    assert np.abs(frame.luma - y).max() <= 0.5
    half = 1 << (bit_depth - 1)
    for plane, of_samples in ((frame.planes[1], 0.564 * (b - y)), (frame.planes[2], 0.713 * (r - y))):
        slow = [[half + of_samples[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(32)] for i in range(24)]
        assert np.abs(plane - np.array(slow)).max() <= 1.5 * bit_depth / 10


def test_deep_grey_with_alpha_is_grey(tmp_path):
    pytest.importorskip("av")
    samples = deep(2)
    source = open_frames(write_png(tmp_path / "a.png", samples, 4), bit_depth=10)
    assert source.format == FrameFormat(64, 48, 10, "mono")
    assert np.array_equal(next(iter(source)).luma, samples[..., 0])


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_deep_pictures_need_their_depth_and_must_fit_it(tmp_path, channels, colour_type):
    pytest.importorskip("av")
    path = write_png(tmp_path / "a.png", deep(channels, 12), colour_type)
    for depth in (None, 8):
        with pytest.raises(InputError, match="16-bit samples"):
            open_frames(path, bit_depth=depth)
    with pytest.raises(InputError, match=r"sample \d+ does not fit 10 bits"):
        open_frames(path, bit_depth=10)


def test_without_pyav_deep_colour_is_refused_and_deep_grey_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingComponentError):
        open_frames(write_png(tmp_path / "a.png", deep(3), 2), bit_depth=10)
    source = open_frames(write_png(tmp_path / "b.png", deep(1), 0), bit_depth=10)
    assert np.array_equal(next(iter(source)).luma, deep(1)[..., 0])


def test_grey_with_alpha_is_monochrome(tmp_path):
    luma = crop(SIZE).luma
    Image.merge("LA", [Image.fromarray(luma), Image.fromarray(luma[::-1])]).save(tmp_path / "a.png")
    source = open_frames(tmp_path / "a.png")
    assert source.format == SIZE and same(next(iter(source)), crop(SIZE))


def test_a_palette_with_transparency_gives_no_warning(tmp_path):
    picture = Image.fromarray(crop(SIZE).luma).convert("P")
    picture.save(tmp_path / "a.png", transparency=bytes([0, 3, 9]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_frames(tmp_path / "a.png").format.chroma == "420"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_orientation_is_told_and_not_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(crop(SIZE).luma)
    picture.save(tmp_path / f"turned.{suffix}", exif=exif)
    picture.save(tmp_path / f"plain.{suffix}")
    turned, plain = (open_frames(tmp_path / f"{name}.{suffix}") for name in ("turned", "plain"))
    assert turned.format == SIZE and same(next(iter(turned)), next(iter(plain)))
    assert "EXIF orientation 6 is not applied" in turned.notes[0] and plain.notes == ()


def test_damaged_exif_is_no_reason_to_refuse_a_picture(tmp_path):
    Image.fromarray(crop(SIZE).luma).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_frames(tmp_path / "a.jpg").format == SIZE


def test_pillows_limit_does_not_hold_and_is_left_alone(tmp_path, monkeypatch):
    Image.fromarray(crop(SIZE).luma).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert open_frames(tmp_path / "a.png").format == SIZE
    assert PIL.Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ((65536, 65536), "bytes cannot hold the 65536x65536"),
        ((65537, 64), "width must be 16 to 65536"),
        ((64, 2**31 - 1), "height must be 16 to 65536"),
        ((0, 64), "no readable picture"),
    ],
)
def test_sizes_that_a_header_claims(tmp_path, claim, expected):
    path = write_png(tmp_path / "a.png", deep(1), 0, claim)
    with pytest.raises(InputError, match=expected):
        open_frames(path, bit_depth=10)


def test_a_jpeg_that_claims_to_be_huge(tmp_path):
    file = io.BytesIO()
    Image.fromarray(crop(SIZE).luma).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(InputError, match="bytes cannot hold the 65000x65000"):
        open_frames(tmp_path / "a.jpg")


def test_as_flat_as_pictures_get_is_still_read(tmp_path):
    """What may be refused for its few bytes is far from the flattest pictures that encoders write."""
    flat = Image.new("L", (4096, 4096), 128)
    flat.putpixel((7, 7), 0)
    flat.save(tmp_path / "a.png", compress_level=9)
    flat.save(tmp_path / "a.jpg", quality=1, optimize=True)
    flat.save(tmp_path / "b.jpg", quality=1, progressive=True, optimize=True)
    for name in ("a.png", "a.jpg", "b.jpg"):
        assert open_frames(tmp_path / name).format == FrameFormat(4096, 4096, 8, "mono")


def test_a_depth_that_a_picture_has_not(tmp_path):
    Image.fromarray(random_luma(0, 64, 48)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="have 8 bits"):
        open_frames(tmp_path / "a.png", bit_depth=10)
    assert open_frames(tmp_path / "a.png", bit_depth=8).format == SIZE
