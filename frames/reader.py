"""Frames from files of any kind, one at a time: Y4M, raw YUV, pictures, and whatever PyAV decodes.

The dataset build and `predict` both read their input here, so that both see the same samples. A frame is a
few planes of integers as the file holds them; nothing is scaled, and only RGB pictures are converted.

    y4m                  frames/planar.py
    yuv, raw             frames/planar.py, with a FrameFormat, as the file does not say
    png, jpg, jpeg       frames/pictures.py
    anything else        frames/video.py, through PyAV
"""

from __future__ import annotations

from pathlib import Path

from errors import InputError
from frames.frame import FrameFormat, FrameSource
from frames.pictures import open_picture
from frames.planar import open_raw, open_y4m
from frames.video import open_video


def open_frames(
    path: Path, raw: FrameFormat | None = None, packed_420: bool = False, picture_depth: int | None = None
) -> FrameSource:
    """Open a file of frames; its suffix says how it is read.

    Args:
        path: the file.
        raw: size, depth and chroma of raw planar YUV (`.yuv`, `.raw`).
        packed_420: a grey picture holds 4:2:0 planes, Y on top and below it U on the left, V on the right.
        picture_depth: what the samples of a 16-bit grey picture hold, 10 or 12.

    Raises:
        InputError: if the file is missing, empty, damaged, or of a format that AV1 does not have.
        UsageError: for a raw file without `raw`.
        MissingComponentError: if the file needs PyAV and that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".y4m", ".yuv", ".raw"):
        return open_y4m(path) if suffix == ".y4m" else open_raw(path, raw)
    if suffix in (".png", ".jpg", ".jpeg"):
        return open_picture(path, picture_depth, packed_420)
    return open_video(path)
