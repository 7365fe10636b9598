"""Planar files: Y4M, which says what it holds, and raw YUV, which does not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from errors import InputError, UsageError
from frames.frame import (
    BIT_DEPTHS,
    CHROMA_SHIFTS,
    MAX_SIZE,
    Frame,
    FrameFormat,
    FrameSource,
    check_samples,
    format_of,
    too_large,
)
from inputs import open_regular

Y4M_MAGIC = b"YUV4MPEG2"
INTERLACED_HINT = (
    "deinterlace it first (ffmpeg -i IN -vf bwdif out.y4m); where it is progressive after all, with -vf setfield=prog"
)
_LINE_LIMIT = 65535
_SCANS = {"t": "interlaced, top field first", "b": "interlaced, bottom field first", "m": "interlaced in parts"}
# Tags may name a depth, "420p10", "mono12", or where chroma is sited, "420jpeg", which does not matter here.
_CHROMA = re.compile(r"(420)(?:jpeg|mpeg2|paldv)?|(420|422|444)(?:p([1-9][0-9]?))?|(mono)([1-9][0-9]?)?")
_NUMBER = re.compile(r"[0-9]+")
_RATE = re.compile(r"0*([0-9]{1,10}):0*([0-9]{1,10})")
_MOST_RATE = (1 << 31) - 1


@dataclass(frozen=True)
class _PlanarSource(FrameSource):
    """Frames of equal length one after another, each behind a line of its own in Y4M."""

    path: Path
    format: FrameFormat
    frame_count: int | None
    start: int
    marker: bytes

    def __iter__(self) -> Iterator[Frame]:
        with open_regular(self.path) as file:
            file.seek(self.start)
            count = 0
            while (frame := self._read(file, count)) is not None:
                yield frame
                count += 1
        if not count:
            raise InputError(f"{self.path} holds no frame")

    def _read(self, file: BinaryIO, count: int) -> Frame | None:
        if self.marker:
            line = file.readline(_LINE_LIMIT + 1)
            if not line:
                return None
            if not (line == self.marker + b"\n" or (line.startswith(self.marker + b" ") and line.endswith(b"\n"))):
                raise self._damaged(count, "then comes no FRAME line")
        # A header may claim gigabytes of a file that has none.
        left = os.fstat(file.fileno()).st_size - file.tell()
        if left <= 0 and not self.marker:
            return None
        try:
            data = file.read(self.format.frame_bytes) if left >= self.format.frame_bytes else b""
        except MemoryError:
            raise too_large(self.path, self.format) from None
        if len(data) < self.format.frame_bytes:
            raise self._damaged(count, f"then {max(left, 0)} of {self.format.frame_bytes} bytes")
        return check_samples(self._cut(data), self.format.bit_depth, f"{self.path}, frame {count}")

    def _cut(self, data: bytes) -> Frame:
        samples: NDArray[np.integer] = np.frombuffer(data, self.format.dtype)
        planes, start = [], 0
        for rows, cols in self.format.plane_shapes:
            planes.append(samples[start : start + rows * cols].reshape(rows, cols))
            start += rows * cols
        return Frame(tuple(planes))

    def _damaged(self, count: int, what: str) -> InputError:
        return InputError(
            f"{self.path} is truncated or damaged: {count} whole frames, {what}",
            "copy the file again" if self.marker else f"is it {self.format}? check the size options",
        )


def open_y4m(path: Path) -> FrameSource:
    """Open a Y4M file (4:2:0, 4:2:2, 4:4:4, mono; 8, 10, 12 bit; progressive).

    Raises:
        InputError: if the header is missing or damaged, its size, depth or chroma format is not read, or it says that
            frames are interlaced.
    """
    with open_regular(path) as file:
        header = file.readline(_LINE_LIMIT + 1)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    frame_format = _parse_header(header, path)
    # Frame lines may carry parameters; only when none does is the count known beforehand.
    count, rest = divmod(size - start, len(b"FRAME\n") + frame_format.frame_bytes)
    return _PlanarSource(path, frame_format, None if rest else count, start, b"FRAME")


def _parse_header(header: bytes, path: Path) -> FrameFormat:
    """What the line of a file says; encoder/frame_input.c reads by the same rules (tests/y4m_headers.py)."""
    if not header.startswith((Y4M_MAGIC + b" ", Y4M_MAGIC + b"\n")):
        raise InputError(f"{path} is no Y4M file: it does not start with {Y4M_MAGIC.decode()} and a space")
    if not header.endswith(b"\n"):
        raise InputError(f"{path} is truncated or damaged: its header has no end, 0 whole frames were read")
    if b"\0" in header:
        raise InputError(f"{path} is damaged: a byte of 0 in its header")
    fields = {word[0]: word[1:] for word in header[:-1].decode("latin-1").split(" ")[1:] if word}
    scan = fields.get("I", "p")
    if scan not in ("p", "?"):
        kind = _SCANS.get(scan, "of a kind of interlacing that is not known")
        raise InputError(f"{path} is {kind}: its Y4M header says I{scan[:9]}", INTERLACED_HINT)
    _check_rate(fields.get("F", "0:0"), path)
    width, height = (_side(fields.get(key), name, path) for key, name in (("W", "width"), ("H", "height")))
    chroma, bit_depth = _y4m_chroma(fields.get("C", "420"), path)
    return format_of(path, width, height, bit_depth, chroma)


def _check_rate(text: str, path: Path) -> None:
    """Nobody here needs the rate, but the encoder would refuse the file."""
    match = _RATE.fullmatch(text)
    rate, unit = (int(match[1]), int(match[2])) if match else (0, -1)
    if max(rate, unit) > _MOST_RATE or unit < (rate > 0):
        raise InputError(f"{path}: frame rate F{text[:30]} is no rate", "it is written as two numbers, such as F30:1")


def _side(text: str | None, name: str, path: Path) -> int:
    if text is None or not _NUMBER.fullmatch(text):
        raise InputError(f"{path}: the Y4M header gives no {name}")
    if len(digits := text.lstrip("0")) > len(str(MAX_SIZE)):
        raise InputError(f"{path}: the Y4M header gives a {name} of {len(digits)} digits")
    return int(text[-len(str(MAX_SIZE)) :])


def _y4m_chroma(tag: str, path: Path) -> tuple[str, int]:
    match = _CHROMA.fullmatch(tag)
    if not match:
        known = ", ".join(c for c in CHROMA_SHIFTS)
        raise InputError(f"{path}: chroma format C{tag[:30]} is not read", f"known: {known}, with p10 or p12 behind")
    sited, planar, depth, mono, mono_depth = match.groups()
    bit_depth = int(depth or mono_depth or 8)
    if bit_depth not in BIT_DEPTHS:
        raise InputError(f"{path}: chroma format C{tag} has {bit_depth} bits per sample; AV1 has 8, 10 and 12")
    return sited or planar or mono, bit_depth


def open_raw(path: Path, raw: FrameFormat | None) -> FrameSource:
    """Open a raw planar YUV file; above 8 bit its samples are little-endian 16-bit words.

    Raises:
        UsageError: if no format is given.
        InputError: if the file is shorter than one frame.
    """
    if raw is None:
        raise UsageError(f"{path} is raw video, which does not say its size", "give --size WIDTHxHEIGHT")
    with open_regular(path) as file:
        count, rest = divmod(os.fstat(file.fileno()).st_size, raw.frame_bytes)
    if not count:
        raise InputError(f"{path} is truncated: 0 whole frames, {rest} of {raw.frame_bytes} bytes", f"is it {raw}?")
    return _PlanarSource(path, raw, None if rest else count, 0, b"")
