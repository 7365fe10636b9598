"""Single pictures as frames: PNG and JPEG, grey, RGB, or 4:2:0 planes packed into a grey picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from errors import InputError
from frames.frame import Frame, FrameFormat, FrameSource, check_samples, format_of


@dataclass(frozen=True)
class _PictureSource(FrameSource):
    """One picture, decoded when it was opened."""

    path: Path
    format: FrameFormat
    frame: Frame
    frame_count: int | None = 1
    is_picture = True

    def __iter__(self) -> Iterator[Frame]:
        yield self.frame


def open_picture(path: Path, bit_depth: int | None = None, packed_420: bool = False) -> FrameSource:
    """Open a picture: grey ones become monochrome, all others 4:2:0 (BT.601 full range, as JPEG has it).

    Args:
        path: a PNG or JPEG file; transparency is dropped.
        bit_depth: what the samples of a 16-bit grey picture hold, 10 or 12.
        packed_420: the grey picture holds 4:2:0 planes, Y on top and below it U on the left, V on the right.

    Raises:
        InputError: if it is no picture, too small, its depth is unknown, or packed planes do not fit.
    """
    mode, samples = _read(path)
    grey = samples.ndim == 2
    if grey and samples.dtype != np.uint8:
        if bit_depth in (None, 8):
            raise InputError(f"{path} has 16-bit samples; which depth do they hold?", "give --bit-depth 10 or 12")
    else:
        bit_depth = 8
    if packed_420:
        if not grey:
            raise InputError(f"{path} is a {mode} picture; packed 4:2:0 planes come in a grey one")
        planes = _unpack_420(samples, path)
    else:
        planes = (samples,) if grey else _halve_chroma(samples)
    height, width = planes[0].shape
    frame_format = format_of(path, width, height, bit_depth or 8, "420" if len(planes) == 3 else "mono")
    frame = Frame(tuple(np.ascontiguousarray(p, frame_format.dtype) for p in planes))
    return _PictureSource(path, frame_format, check_samples(frame, frame_format.bit_depth, str(path)))


def _read(path: Path) -> tuple[str, NDArray[np.integer]]:
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode in ("1", "L"):
                return mode, np.asarray(image.convert("L"))
            if mode in ("I;16", "I;16B", "I"):
                return mode, np.asarray(image).astype(np.uint16)
            return mode, np.asarray(image.convert("RGB").convert("YCbCr"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable picture: {error}") from None


def _unpack_420(samples: NDArray[np.integer], path: Path) -> tuple[NDArray[np.generic], ...]:
    rows, cols = samples.shape
    if rows % 3 or cols % 2:
        raise InputError(
            f"{path} is {cols}x{rows}: packed 4:2:0 planes need an even width and a height that 3 divides",
            "luma of odd size cannot be packed so; use Y4M",
        )
    height = rows // 3 * 2
    return samples[:height], samples[height:, : cols // 2], samples[height:, cols // 2 :]


def _halve_chroma(samples: NDArray[np.integer]) -> tuple[NDArray[np.generic], ...]:
    """Y, U, V of a picture, uint8 [H, W, 3]; chroma is the rounded mean of 2x2, odd edges replicated."""
    height, width = samples.shape[:2]
    padded = np.pad(samples[..., 1:], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    quads = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, 2)
    mean = ((quads.sum((1, 3)) + 2) // 4).astype(np.uint8)
    return samples[..., 0], mean[..., 0], mean[..., 1]
