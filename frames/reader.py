"""Frames from files of any kind, one at a time: Y4M, raw YUV, pictures, and whatever PyAV decodes.

The dataset build and `predict` both read their input here, so that both see the same samples. A frame is a
few planes of integers as the file holds them; nothing is scaled, and only RGB pictures are converted.

    y4m                  frames/planar.py
    raw                  frames/planar.py, with a FrameFormat, as the file does not say
    png, jpg             frames/pictures.py
    anything else        frames/video.py, through PyAV
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from errors import InputError, UsageError
from frames.frame import FrameFormat, FrameSource
from frames.pictures import JPEG_MAGIC, PNG_MAGIC, open_picture
from frames.planar import Y4M_MAGIC, open_raw, open_y4m
from frames.video import open_video
from inputs import open_regular


class Kind(Enum):
    """How a file of frames is read; the value names it for people."""

    Y4M = "Y4M"
    RAW = "raw video"
    PICTURE = "a picture"
    VIDEO = "video"


_SUFFIXES = {
    ".y4m": Kind.Y4M,
    ".yuv": Kind.RAW,
    ".raw": Kind.RAW,
    ".png": Kind.PICTURE,
    ".jpg": Kind.PICTURE,
    ".jpeg": Kind.PICTURE,
}
# MP4 and HEIF, Matroska, IVF, AVI and WebP, Ogg, Flash video, GIF, ASF.
_CONTAINERS = (
    (4, b"ftyp"),
    (0, b"\x1aE\xdf\xa3"),
    (0, b"DKIF"),
    (0, b"RIFF"),
    (0, b"OggS"),
    (0, b"FLV"),
    (0, b"GIF8"),
    (0, b"0&\xb2u"),
)
# Pictures one after another, each with a picture's magic.
_MOVING = (".apng", ".mjpeg", ".mjpg")


def kind_of(path: Path, sized: bool = False) -> Kind:
    """What a file is: by its first bytes; where these tell nothing it is raw if somebody said its size, or else what
    its suffix says.

    Args:
        path: the file.
        sized: its size was given, as raw video needs it.

    Raises:
        InputError: if it is missing, no regular file, or empty.
    """
    with open_regular(path) as file:
        head = file.read(16)
    suffix = path.suffix.lower()
    if not head:
        raise InputError(f"{path} is empty")
    if head.startswith(Y4M_MAGIC):
        return Kind.Y4M
    # Three or four bytes may stand at the start of a raw frame too.
    if not (sized and _SUFFIXES.get(suffix) is Kind.RAW) or head.startswith(PNG_MAGIC):
        if suffix not in _MOVING and head.startswith((PNG_MAGIC, JPEG_MAGIC)):
            return Kind.PICTURE
        if suffix in _MOVING or any(head.startswith(magic, start) for start, magic in _CONTAINERS):
            return Kind.VIDEO
    return Kind.RAW if sized else _SUFFIXES.get(suffix, Kind.VIDEO)


def open_frames(
    path: Path, raw: FrameFormat | None = None, packed_420: bool = False, bit_depth: int | None = None
) -> FrameSource:
    """Open a file of frames, as `kind_of` says.

    Args:
        path: the file.
        raw: size, depth and chroma of raw planar YUV.
        packed_420: a grey picture holds 4:2:0 planes, Y on top and below it U on the left, V on the right.
        bit_depth: what the samples of a 16-bit picture hold, 10 or 12; of other files no more than a claim.

    Raises:
        InputError: if the file is missing, empty, damaged, or of a format that AV1 does not have.
        UsageError: for a raw file without `raw`, and for anything given that is not of this kind of file.
        MissingComponentError: if the file needs PyAV and that is not installed.
    """
    path = Path(path)
    kind = kind_of(path, raw is not None)
    if raw is not None and kind is not Kind.RAW:
        raise UsageError(f"--size is of raw video, and {path} is {kind.value}", "leave it out")
    if packed_420 and kind is not Kind.PICTURE:
        raise UsageError(f"--packed-420 is of pictures, and {path} is {kind.value}", "leave it out")
    if kind is Kind.PICTURE:
        return open_picture(path, bit_depth, packed_420)
    if kind is Kind.RAW:
        source = open_raw(path, raw)
    else:
        source = open_y4m(path) if kind is Kind.Y4M else open_video(path)
    if bit_depth not in (None, source.format.bit_depth):
        source.close()
        raise UsageError(f"--bit-depth {bit_depth}, and {path} is {source.format}", "leave it out")
    return source
