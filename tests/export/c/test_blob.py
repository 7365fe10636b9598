"""What a blob holds: weights that unpack to the matrix, and a header that says what it is."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import pytest

from description import BLOCKS, Task
from export.c.blob import HEADER, MAGIC, OP_WORDS, SHORTEST_GAP, pack, write_blob
from export.c.ops import Op
from export.c.task_table import task_table
from tests.export.c.test_library import products_of_bytes, small_program


def unpacked(weights, runs, inputs: int, outputs: int, step: int) -> np.ndarray:
    """The matrix that a kernel sees, by the layout that export/c/blob.py draws."""
    matrix, at, left = np.zeros((inputs, -(-outputs // 8) * 8)), 0, list(runs)
    flat = weights.reshape(-1, 8, step)
    for first in range(0, outputs, 8):
        for _ in range(left.pop(0)):
            start, count = left.pop(0), left.pop(0)
            rows = flat[at : at + count].transpose(0, 2, 1).reshape(count * step, 8)
            matrix[start * step : (start + count) * step, first : first + 8] = rows
            at += count
    assert not left and at == len(flat)
    return matrix[:, :outputs]


@pytest.mark.parametrize("outputs", [1, 8, 21])
@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_packed_weights_are_the_matrix(outputs, density, as_bytes):
    rng = np.random.default_rng(0)
    matrix = (rng.integers(-63, 64, (64, outputs)) * (rng.random((64, outputs)) < density)).astype(np.float32)
    unit = rng.random(outputs).astype(np.float32) + 0.1
    op = Op("product", "y", outputs, "x", matrix=matrix)
    if as_bytes:
        op = Op("product", "y", outputs, "x", matrix=matrix * unit, unit=unit, row=(0.1, 3))
    weights, runs = pack(op)
    assert weights.dtype == (np.int8 if as_bytes else np.float32)
    assert np.array_equal(unpacked(weights, runs, 64, outputs, 4 if as_bytes else 1), matrix)
    if density == 0:
        assert weights.size == 0 and set(runs) == {0}


def test_short_gaps_are_carried_along():
    matrix = np.zeros((40, 8), np.float32)
    matrix[[0, SHORTEST_GAP, 30]] = 1
    _, runs = pack(Op("product", "y", 8, "x", matrix=matrix))
    assert list(runs) == [2, 0, SHORTEST_GAP + 1, 30, 1]


def test_header():
    program = small_program()
    blob = write_blob(program, BLOCKS, {"0.95": 0.25, "0.99": 0.5}, "cd" * 32)
    magic, version, header, size, digest = struct.unpack_from("<8sIIQ32s", blob)
    assert (magic, version, header, size) == (MAGIC, 2, HEADER, len(blob))
    assert digest == hashlib.sha256(blob[64:]).digest()
    assert struct.unpack_from("<2I", blob, 64) == (0, len(program.ops))
    assert blob[108:140] == bytes.fromhex("cd" * 32)
    assert struct.unpack_from("<4f", blob, 140) == pytest.approx((0.95, 0.25, 0.99, 0.5))
    at, count, text_at, text_size = struct.unpack_from("<4I", blob, 64 + 4 * 7)
    assert np.frombuffer(blob, np.uint32)[at : at + count].tolist() == task_table(BLOCKS)
    text = blob[4 * text_at :][:text_size]
    assert text.endswith(b"\0") and Task.from_json(json.loads(text[:-1])) == BLOCKS
    assert len(blob) > HEADER + 4 * OP_WORDS * len(program.ops) and len(blob) % 64 == 0


def test_the_same_program_gives_the_same_blob():
    assert write_blob(small_program(), BLOCKS, {}, "00" * 32) == write_blob(small_program(), BLOCKS, {}, "00" * 32)


VERSION_1 = {
    "floats": (small_program, "bb1be9af8af16cfa3a161ce5a7ffe6871c2b4e0eb1ef7fd6c9dc77135072f13c"),
    "bytes": (lambda: products_of_bytes(1), "01934987656ac20d9bc05faeff07a4cca490e01f08830532d6b081b903337ef2"),
    "patches": (lambda: products_of_bytes(2), "2c73cb9911a02569ac6e864b0da19622c0e0cf098dd7dece6ef9410abdb38489"),
}
"""SHA-256 of what version 1 of the format had behind its header."""


@pytest.mark.parametrize("name", VERSION_1)
def test_operations_and_weights_are_those_of_version_1(name):
    make, digest = VERSION_1[name]
    blob = write_blob(make(), BLOCKS, {}, "00" * 32)
    (task_at,) = struct.unpack_from("<I", blob, 64 + 4 * 7)
    assert hashlib.sha256(blob[HEADER : 4 * task_at]).hexdigest() == digest


def test_too_many_thresholds():
    with pytest.raises(ValueError, match="room for 8"):
        write_blob(small_program(), BLOCKS, {f"0.{n}": 0.1 for n in range(10, 20)}, "00" * 32)
