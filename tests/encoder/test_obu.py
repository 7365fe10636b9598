"""encoder/obu.py: OBUs that are written come back; damaged ones are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.obu import FRAME_HEADER, TEMPORAL_DELIMITER, shown_existing_slot, split_temporal_units, walk_obus
from errors import InputError

FRAME = 6
DELIMITER = bytes([0x12, 0])


def leb128(value: int) -> bytes:
    more = value >> 7
    return bytes([value & 127 | (128 if more else 0)]) + (leb128(more) if more else b"")


def obu(kind: int, payload: bytes, extension: bool = False) -> bytes:
    return bytes([kind << 3 | 2 | (4 if extension else 0)]) + b"\x08" * extension + leb128(len(payload)) + payload


@given(st.lists(st.tuples(st.integers(1, 15), st.binary(max_size=300), st.booleans())), st.integers(0, 20))
def test_walk_finds_every_unit(units, padding):
    data = b"".join(obu(*unit) for unit in units) + bytes(padding)
    found = [(o.type, data[o.payload : o.end]) for o in walk_obus(data)]
    assert found == [(kind, payload) for kind, payload, _ in units]


@given(st.lists(st.lists(st.binary(max_size=200), max_size=4), max_size=5))
def test_split_gives_back_the_stream(units):
    parts = [DELIMITER + b"".join(obu(FRAME, p) for p in unit) for unit in units]
    assert list(split_temporal_units(b"".join(parts))) == parts


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x80\x00", "no AV1 OBU at byte 0"),
        (b"\x30", "no AV1 OBU at byte 0"),  # no size field
        (obu(FRAME, b"abcdef")[:-2], "truncated: 4 of 6 bytes"),
        (b"\x32", "size at byte 1 is malformed"),
        (b"\x32" + b"\xff" * 9, "size at byte 1 is malformed"),
    ],
)
def test_damaged_units(data, expected):
    with pytest.raises(InputError, match=expected):
        list(walk_obus(data))


def test_stream_without_delimiter():
    with pytest.raises(InputError, match="temporal delimiter"):
        list(split_temporal_units(obu(FRAME, b"abc")))
    assert next(walk_obus(DELIMITER)).type == TEMPORAL_DELIMITER


def test_shown_existing_slot():
    assert shown_existing_slot(DELIMITER + obu(FRAME_HEADER, b"\xd0")) == 5
    assert shown_existing_slot(DELIMITER + obu(FRAME_HEADER, b"\x50")) is None
    assert shown_existing_slot(obu(FRAME, b"\xd0")) is None
