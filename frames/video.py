"""Video of any kind through PyAV (FFmpeg); imported only when such a file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errors import InputError, MissingComponentError
from frames.frame import Frame, FrameFormat, FrameSource, format_of

# FFmpeg's names of the planar formats that AV1 has: yuv420p, yuvj422p, yuv444p10le, gray, gray12le.
_PLANAR = re.compile(r"(?:yuvj?(420|422|444)p|(gray))(?:(10|12)le)?")


def import_av() -> Any:
    """The `av` module.

    Raises:
        MissingComponentError: if it is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingComponentError("this file needs PyAV, which is not installed", "pip install av") from None
    return av


@contextmanager
def first_video_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container of a file, opened, and its first video stream.

    Raises:
        MissingComponentError: without PyAV.
        InputError: if PyAV cannot read the file, or it holds no video.
    """
    av = import_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video stream")
            yield container, container.streams.video[0]
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path} is no file that PyAV can read: {error.strerror or error}") from None


@dataclass(frozen=True)
class _VideoSource(FrameSource):
    """The first video stream of a file."""

    path: Path
    format: FrameFormat
    pixel_format: str
    # Containers may say how many there are, and may be wrong.
    frame_count: int | None = None

    def __iter__(self) -> Iterator[Frame]:
        av, count = import_av(), 0
        try:
            with av.open(str(self.path)) as container:
                for decoded in container.decode(video=0):
                    if (decoded.width, decoded.height) != (self.format.width, self.format.height):
                        raise InputError(
                            f"{self.path}: frame {count} is {decoded.width}x{decoded.height}, "
                            f"the first was {self.format.width}x{self.format.height}"
                        )
                    yield self._convert(decoded)
                    count += 1
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{self.path} is damaged: {count} whole frames, then {error.strerror or error}") from None
        if not count:
            raise InputError(f"{self.path} holds no frame that can be decoded")

    def _convert(self, decoded: Any) -> Frame:
        if decoded.format.name != self.pixel_format:
            decoded = decoded.reformat(format=self.pixel_format)
        planes = zip(decoded.planes, self.format.plane_shapes, strict=False)
        return Frame(tuple(_plane(plane, shape, self.format) for plane, shape in planes))


def _plane(plane: Any, shape: tuple[int, int], frame_format: FrameFormat) -> NDArray[np.integer]:
    """A copy of the plane without the padding behind each row."""
    rows, cols = shape
    words: NDArray[np.integer] = np.frombuffer(plane, frame_format.dtype)
    stride = plane.line_size // frame_format.dtype.itemsize
    return words[: rows * stride].reshape(rows, stride)[:, :cols].copy()


def open_video(path: Path) -> FrameSource:
    """Open the first video stream of a file; formats that AV1 does not have are converted to 4:2:0.

    Raises:
        MissingComponentError: without PyAV.
        InputError: if the file holds no video, or one of a size that is not read.
    """
    with first_video_stream(path) as (_, stream):
        context = stream.codec_context
        pixel_format, width, height = context.pix_fmt, context.width, context.height
        depth = max((c.bits for c in context.format.components), default=8) if context.format else 8
    match = _PLANAR.fullmatch(pixel_format or "")
    if match:
        chroma, bit_depth = match[1] or "mono", int(match[3] or 8)
    else:
        chroma, bit_depth = "420", 8 if depth == 8 else 10
        pixel_format = "yuv420p" if bit_depth == 8 else "yuv420p10le"
    return _VideoSource(path, format_of(path, width, height, bit_depth, chroma), pixel_format)
