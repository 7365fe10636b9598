"""Single pictures as frames: PNG and JPEG, grey, RGB, or 4:2:0 planes packed into a grey picture.

Samples are taken as they are stored: blocks of a picture that its EXIF orientation would turn are those of the stored
samples, and the source's `notes` say so. An encoder that is given the turned picture sees others.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from errors import InputError, UsageError
from frames.frame import Frame, FrameFormat, FrameSource, check_samples, format_of, too_large
from frames.video import decode_deep_png
from inputs import open_regular

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
# Deflate writes a byte for at most 1032, JPEG a bit for at least 64 samples: what claims more holds no such picture.
_MOST_SAMPLES_A_BYTE = 1040


@dataclass(frozen=True)
class _PictureSource(FrameSource):
    """One picture, decoded when it was opened."""

    path: Path
    format: FrameFormat
    frame: Frame
    notes: tuple[str, ...]
    frame_count: int | None = 1
    is_picture = True

    def __iter__(self) -> Iterator[Frame]:
        yield self.frame


def open_picture(path: Path, bit_depth: int | None = None, packed_420: bool = False) -> FrameSource:
    """Open a picture: grey ones become monochrome, all others 4:2:0 (BT.601 full range, as JPEG has it).

    Args:
        path: a PNG or JPEG file; transparency is dropped.
        bit_depth: what the samples of a 16-bit picture hold, 10 or 12; they are taken as they are, not scaled.
        packed_420: the grey picture holds 4:2:0 planes, Y on top and below it U on the left, V on the right.

    Raises:
        InputError: if it is no picture, too small or too large, its depth is unknown, or packed planes do not fit.
        UsageError: for another `bit_depth` than that of an 8-bit picture.
        MissingComponentError: if its samples are of 16 bits and not grey alone, and PyAV is not installed.
    """
    samples, notes = _read(path)
    grey, depth = samples.ndim == 2, 8
    if samples.dtype != np.uint8:
        if bit_depth in (None, 8):
            raise InputError(f"{path} has 16-bit samples; which depth do they hold?", "give --bit-depth 10 or 12")
        depth = bit_depth or 8
    elif bit_depth not in (None, 8):
        raise UsageError(f"--bit-depth {bit_depth}, and the samples of {path} have 8 bits", "leave it out")
    if packed_420:
        if not grey:
            raise InputError(f"{path} is a colour picture; packed 4:2:0 planes come in a grey one")
        planes = _unpack_420(samples, path)
    else:
        if not grey and depth > 8:
            check_samples(Frame(tuple(np.moveaxis(samples, 2, 0))), depth, str(path))
            samples = _ycbcr(samples, depth)
        planes = (samples,) if grey else _halve_chroma(samples)
    height, width = planes[0].shape
    frame_format = format_of(path, width, height, depth, "420" if len(planes) == 3 else "mono")
    frame = Frame(tuple(np.ascontiguousarray(p, frame_format.dtype) for p in planes))
    return _PictureSource(path, frame_format, check_samples(frame, depth, str(path)), notes)


def _read(path: Path) -> tuple[NDArray[np.integer], tuple[str, ...]]:
    """Grey samples [H, W], Y, Cb, Cr of 8 bit or R, G, B of 16 bit [H, W, 3]; and what there is to say."""
    # Pillow warns of damaged EXIF data, which nobody asked for.
    with open_regular(path) as file, warnings.catch_warnings(action="ignore"):
        image = open_image(file, path)
        try:
            if _is_deep(file) and image.mode != "I;16":
                return decode_deep_png(path), ()
            samples = _samples(image)
        except MemoryError:
            raise too_large(path, FrameFormat(*image.size, 8, "420")) from None
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise InputError(f"{path} is no readable picture: {error}") from None
        return samples, _notes(image)


def open_image(file: BinaryIO, path: Path) -> ImageFile:
    """A PNG or JPEG whose header is read and whose samples are not.

    Pillow's own limit of 179 million samples does not hold; AV1's does, and the size must be one that the file's
    bytes can hold.

    Args:
        file: opened; it must stay open until the samples are read.
        path: its name.

    Raises:
        InputError: if it is neither, is damaged, or too small or too large.
    """
    magic = file.read(len(PNG_MAGIC))
    file.seek(0)
    # Not through Image.open, whose limit is a global of the process.
    kind = PngImageFile if magic == PNG_MAGIC else JpegImageFile if magic.startswith(JPEG_MAGIC) else None
    if kind is None:
        raise InputError(f"{path} is no readable picture: neither PNG nor JPEG")
    try:
        image = kind(file)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise InputError(f"{path} is no readable picture: {error}") from None
    format_of(path, *image.size, 8, "mono")
    length = file.seek(0, 2)
    if image.width * image.height > _MOST_SAMPLES_A_BYTE * length:
        width, height = image.size
        raise InputError(
            f"{path} is no readable picture: {length:,} bytes cannot hold the {width}x{height} that its header claims"
        )
    return image


def _is_deep(file: BinaryIO) -> bool:
    """Whether it is a PNG whose header says 16 bits a sample."""
    file.seek(0)
    head = file.read(26)
    return head.startswith(PNG_MAGIC) and head[24] == 16


def _samples(image: ImageFile) -> NDArray[np.integer]:
    if image.mode == "I;16":
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode == "P":
        # Pillow warns of transparency in a palette that is not asked for.
        return np.asarray(image.convert("RGBA").convert("RGB").convert("YCbCr"))
    return np.asarray(image.convert("RGB").convert("YCbCr"))


def _notes(image: ImageFile) -> tuple[str, ...]:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever Pillow's parser raises: nobody asked for what it reads but this note
        return ()
    if orientation in (None, 0, 1):
        return ()
    return (f"its EXIF orientation {orientation} is not applied: blocks are those of the samples as stored",)


def _unpack_420(samples: NDArray[np.integer], path: Path) -> tuple[NDArray[np.generic], ...]:
    rows, cols = samples.shape
    if rows % 3 or cols % 2:
        raise InputError(
            f"{path} is {cols}x{rows}: packed 4:2:0 planes need an even width and a height that 3 divides",
            "luma of odd size cannot be packed so; use Y4M",
        )
    height = rows // 3 * 2
    return samples[:height], samples[height:, : cols // 2], samples[height:, cols // 2 :]


def _ycbcr(rgb: NDArray[np.integer], bit_depth: int) -> NDArray[np.uint16]:
    """R, G, B [H, W, 3] of a depth as Y, Cb, Cr of it, BT.601 full range."""
    red, green, blue = (rgb[..., i].astype(np.float64) for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    half, peak = 1 << (bit_depth - 1), (1 << bit_depth) - 1
    planes = luma, (blue - luma) / 1.772 + half, (red - luma) / 1.402 + half
    return np.stack([np.clip(np.rint(p), 0, peak).astype(np.uint16) for p in planes], 2)


def _halve_chroma(samples: NDArray[np.integer]) -> tuple[NDArray[np.generic], ...]:
    """Y, U, V of a picture [H, W, 3]; chroma is the rounded mean of 2x2, odd edges replicated."""
    height, width = samples.shape[:2]
    padded = np.pad(samples[..., 1:], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    quads = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, 2)
    mean = ((quads.sum((1, 3)) + 2) // 4).astype(samples.dtype)
    return samples[..., 0], mean[..., 0], mean[..., 1]
