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

from errors import InputError, not_installed
from frames.frame import Frame, FrameFormat, FrameSource, format_of
from frames.planar import INTERLACED_HINT
from inputs import open_regular

# FFmpeg's names of the planar formats that AV1 has: yuv420p, yuvj422p, yuv444p10le, gray, gray12le; and of those
# beside them that differ in an alpha plane, or hold more bits than AV1.
_PLANAR = re.compile(r"(?:yuvj?(420|422|444)p|(gray))(?:(10|12)le)?")
_WITH_ALPHA = re.compile(r"yuva(420|422|444)p((?:10|12)le)?")
_GREY = re.compile(r"gray|ya")
_NEVER = ("attached_pic", "timed_thumbnails", "dependent")


def import_av() -> Any:
    """The `av` module.

    Raises:
        MissingComponentError: if it is not installed.
    """
    try:
        import av
    except ImportError:
        raise not_installed("av") from None
    return av


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """PyAV's container of a file, opened; FFmpeg opens that file and nothing that it may name.

    Raises:
        MissingComponentError: without PyAV.
        InputError: if PyAV cannot read the file.
    """
    av = import_av()
    try:
        with open_regular(path) as file:
            # A name may have a colon, which FFmpeg takes for a protocol, or be no UTF-8: it gets the suffix alone.
            file.raw.name = f"input{path.suffix if path.suffix.isascii() else ''}"  # type: ignore[attr-defined]
            # Titles and the like may be of any encoding, or damaged.
            options = {"protocol_whitelist": ""}
            with av.open(file, options=options, metadata_errors="replace") as container:
                yield container
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path} is no file that PyAV can read: {error.strerror or error}") from None


@dataclass(frozen=True)
class ChosenStream:
    """The video of a container.

    Attributes:
        index: of its stream.
        notes: which it is, where there are several.
    """

    index: int
    notes: tuple[str, ...]


def choose_stream(container: Any, path: Path) -> ChosenStream:
    """The stream to read: cover pictures and thumbnails never, moving before still, then the one that is marked as
    default, then the largest, then the first.

    Raises:
        InputError: if there is no video, or only the tiles of one picture.
    """
    streams = list(container.streams.video)
    chosen = [s for s in streams if not any(_is(s, name) for name in _NEVER)]
    # Where a grid of tiles is the file's picture, what is no tile is a thumbnail or the like.
    if any(_is(s, "dependent") for s in streams) and not any(_is(s, "default") for s in chosen):
        raise InputError(
            f"{path} is one picture in {len(streams)} tiles, which PyAV reads one by one",
            "put them together first: heif-convert IN out.png, or avifdec IN out.y4m",
        )
    if not chosen:
        raise InputError(f"{path} holds no video stream" + (", only a cover picture" if streams else ""))
    best = max(chosen, key=_rank)
    if best.codec_context is None:
        raise InputError(f"{path}: PyAV has no decoder for its video", "convert it first, such as to Y4M")
    if len(streams) == 1:
        return ChosenStream(best.index, ())
    size = f"{best.codec_context.name} {best.codec_context.width}x{best.codec_context.height}"
    others = len(streams) - 1
    note = f"stream {best.index} ({size}) is read, {others} other{'s' if others > 1 else ''} of pictures or video not"
    return ChosenStream(best.index, (note,))


def _is(stream: Any, disposition: str) -> bool:
    return bool(stream.disposition & type(stream.disposition)[disposition])


def _rank(stream: Any) -> tuple[Any, ...]:
    context = stream.codec_context
    size = (0, 0) if context is None else (context.width * context.height, not _GREY.match(context.pix_fmt or ""))
    return stream.frames != 1, _is(stream, "default"), *size, -stream.index


@dataclass(frozen=True)
class _VideoSource(FrameSource):
    """One video stream of a file."""

    path: Path
    format: FrameFormat
    pixel_format: str
    stream: int
    notes: tuple[str, ...]
    # Containers may say how many there are, and may be wrong.
    frame_count: int | None = None

    def __iter__(self) -> Iterator[Frame]:
        av, count = import_av(), 0
        with open_container(self.path) as container:
            try:
                for decoded in container.decode(container.streams[self.stream]):
                    if (decoded.width, decoded.height) != (self.format.width, self.format.height):
                        raise InputError(
                            f"{self.path}: frame {count} is {decoded.width}x{decoded.height}, "
                            f"the first was {self.format.width}x{self.format.height}"
                        )
                    if decoded.interlaced_frame:
                        raise InputError(f"{self.path}: frame {count} is interlaced", INTERLACED_HINT)
                    yield self._convert(decoded)
                    count += 1
            except (av.error.FFmpegError, OSError) as error:
                reason = error.strerror or error
                raise InputError(f"{self.path} is damaged: {count} whole frames, then {reason}") from None
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
    """Open the video of a file, `choose_stream`; formats that AV1 does not have are converted to 4:2:0, or to
    monochrome where there is no colour. Its first frame is decoded, and a rotation is noted, not applied.

    Raises:
        MissingComponentError: without PyAV.
        InputError: if the file holds no video that can be decoded, it is interlaced, or of a size that is not read.
    """
    with open_container(path) as container:
        chosen = choose_stream(container, path)
        first = _first_frame(container, chosen, path)
    if first.interlaced_frame:
        raise InputError(f"{path} is interlaced", INTERLACED_HINT)
    notes = chosen.notes
    if first.rotation:
        notes += (f"its rotation by {first.rotation} degrees is not applied: blocks are those of the frame as stored",)
    pixel_format, chroma, bit_depth = _planar_format(first.format)
    if pixel_format != first.format.name:
        notes += (f"its {first.format.name} is converted to {pixel_format}",)
    frame_format = format_of(path, first.width, first.height, bit_depth, chroma)
    return _VideoSource(path, frame_format, pixel_format, chosen.index, notes)


def _first_frame(container: Any, chosen: ChosenStream, path: Path) -> Any:
    av = import_av()
    try:
        for frame in container.decode(container.streams[chosen.index]):
            return frame
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: the first frame cannot be decoded: {reason}", "damaged, or of a kind that this FFmpeg lacks"
        ) from None
    raise InputError(f"{path} holds no frame that can be decoded")


def _planar_format(pixels: Any) -> tuple[str, str, int]:
    """The pixel format to convert to, its chroma format and its bit depth."""
    if match := _PLANAR.fullmatch(pixels.name):
        return pixels.name, match[1] or "mono", int(match[3] or 8)
    if match := _WITH_ALPHA.fullmatch(pixels.name):
        return f"yuv{match[1]}p{match[2] or ''}", match[1], int((match[2] or "8le")[:-2])
    deep = max((c.bits for c in pixels.components), default=8) > 8
    if _GREY.match(pixels.name):
        return ("gray10le", "mono", 10) if deep else ("gray", "mono", 8)
    return ("yuv420p10le", "420", 10) if deep else ("yuv420p", "420", 8)


def decode_deep_png(path: Path) -> NDArray[np.uint16]:
    """Samples of a PNG of 16 bits, as they are stored, without alpha: R, G, B [H, W, 3], or grey [H, W].

    Pillow cuts all of them but plain grey to 8 bits.

    Raises:
        MissingComponentError: without PyAV.
        InputError: if it cannot be decoded.
    """
    with open_container(path) as container:
        frame = _first_frame(container, choose_stream(container, path), path)
    channels = {"rgb48be": 3, "rgba64be": 4, "ya16be": 2, "gray16be": 1}.get(frame.format.name)
    if channels is None:
        raise InputError(f"{path} is a PNG of {frame.format.name}, which is not read")
    plane = frame.planes[0]
    rows = np.frombuffer(plane, ">u2").reshape(-1, plane.line_size // 2)
    samples = rows[: frame.height, : frame.width * channels].reshape(frame.height, frame.width, channels)
    return (samples[..., :3] if channels > 2 else samples[..., 0]).astype(np.uint16)
