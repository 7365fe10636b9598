"""Whether an ONNX file keeps weights in other files: found by reading the file itself, without the onnx package.

An ONNX file is a protocol buffer: fields one after another, each a key (number << 3 | wire type) and a value. Messages
lie within messages; `_INSIDE` says in which fields a tensor may lie (onnx.proto3), all others are skipped unread.
"""

from __future__ import annotations

import os
from typing import BinaryIO

_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_DEEPEST = 64
"""Messages within messages; our files have 4."""


def keeps_data_elsewhere(file: BinaryIO) -> bool:
    """Whether any tensor of the model says that its data lie in another file.

    Args:
        file: an ONNX file, at its start.

    Raises:
        ValueError: if it is no well-formed protocol buffer.
    """
    end = os.fstat(file.fileno()).st_size
    return _any_outside(file, "model", end, 0)


def _any_outside(file: BinaryIO, message: str, end: int, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("its messages lie too deep within each other")
    while file.tell() < end:
        number, wire = divmod(_varint(file), 8)
        value = _varint(file) if wire in (_VARINT, _LENGTH) else {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(wire)
        if value is None:
            raise ValueError("it is damaged")
        if message == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and (wire == _LENGTH or value):
            return True
        if wire == _VARINT:
            continue
        stop = file.tell() + value
        if stop > end:
            raise ValueError("it ends too early")
        inner = _INSIDE[message].get(number) if wire == _LENGTH else None
        if inner is not None and _any_outside(file, inner, stop, depth + 1):
            return True
        file.seek(stop)
    if file.tell() != end:
        raise ValueError("it is damaged")
    return False


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        (byte,) = file.read(1) or (None,)
        if byte is None:
            raise ValueError("it ends too early")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("it is damaged")
