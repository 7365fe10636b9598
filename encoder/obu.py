"""The outermost layer of an AV1 stream (specification, sections 5.3 and 7.5): OBUs and temporal units.

Only what the label reader needs; everything inside a frame is libaom's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from errors import InputError

TEMPORAL_DELIMITER = 2
FRAME_HEADER = 3
_RESERVED_BITS = 0x81


@dataclass(frozen=True)
class Obu:
    """Where one open bitstream unit lies in its buffer, in bytes."""

    type: int
    start: int
    payload: int
    end: int


def walk_obus(data: bytes) -> Iterator[Obu]:
    """The OBUs of a buffer in the low-overhead format; zero bytes behind the last one are skipped.

    Raises:
        InputError: if an OBU is malformed or reaches beyond the end.
    """
    position = 0
    while position < len(data):
        if not any(data[position : position + 16]) and not any(data[position:]):
            return
        header = data[position]
        if not position and _is_annex_b(data):
            raise InputError(
                "the stream is in Annex B's format, not in the low-overhead one",
                "convert it first: ffmpeg -f obu -i IN -c copy out.ivf",
            )
        if header & _RESERVED_BITS or not header & 2:
            raise InputError(f"no AV1 OBU at byte {position}", "is it low-overhead (Section 5) AV1?")
        size_at = position + (2 if header & 4 else 1)
        size, payload = _leb128(data, size_at)
        end = payload + size
        if end > len(data):
            raise InputError(f"OBU at byte {position} is truncated: {len(data) - payload} of {size} bytes")
        yield Obu(header >> 3 & 15, position, payload, end)
        position = end


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """A variable-length number and the position behind it."""
    value = 0
    for i in range(8):
        if position + i >= len(data):
            break
        value |= (data[position + i] & 0x7F) << (7 * i)
        if not data[position + i] & 0x80:
            return value, position + i + 1
    raise InputError(f"OBU size at byte {position} is malformed")


def _is_annex_b(data: bytes) -> bool:
    """Whether sizes of a temporal unit, a frame unit and an OBU come first, and then a bare temporal delimiter."""
    position, sizes = 0, []
    try:
        for _ in range(3):
            size, position = _leb128(data, position)
            sizes.append(size)
    except InputError:
        return False
    return sizes[0] > sizes[1] > sizes[2] == 1 and data[position : position + 1] == bytes([TEMPORAL_DELIMITER << 3])


def split_temporal_units(data: bytes) -> Iterator[bytes]:
    """The temporal units of a low-overhead stream, each from its temporal delimiter on.

    Raises:
        InputError: as walk_obus; or if the stream does not start with a temporal delimiter.
    """
    start = None
    for obu in walk_obus(data):
        if obu.type == TEMPORAL_DELIMITER:
            if start is not None:
                yield data[start : obu.start]
            start = obu.start
        elif start is None:
            raise InputError("the stream does not start with a temporal delimiter")
    if start is not None:
        yield data[start:]


def shown_existing_slot(data: bytes) -> int | None:
    """Reference slot (0-7) that a `show_existing_frame` header in these OBUs shows, None if there is none."""
    for obu in walk_obus(data):
        if obu.type == FRAME_HEADER and obu.end > obu.payload and data[obu.payload] & 0x80:
            return data[obu.payload] >> 4 & 7
    return None
