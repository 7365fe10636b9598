"""The blob: a program and its weights as the C library reads them, little-endian, every offset in words of 4 bytes.

    bytes 0-63     magic, version, size, SHA-256 of all that follows
    64-255         what the model is: precision, slots, where its task stands, the run it came from, thresholds
    256-           operations of 32 words each, then weights, each at a multiple of 64 bytes
    last           the task twice: as a table (export/c/task_table.py), and as JSON (description.Task.to_json)

export/c/source/av1part_internal.h names the fields of an operation, av1part_blob.c those of the header. A product's
weights lie as its kernel reads them:

    for each 8 outputs:   runs of inputs with a weight that is not 0        [runs, start, count, start, count, ...]
                          and the weights [inputs in the runs, 8]           bytes: [inputs / 4, 8, 4]
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from description import Task
from export.c.layout import Layout, lay_out
from export.c.ops import ACTS, LUMA, Op, Operand, Program
from export.c.task_table import task_table

MAGIC = b"AV1PART\0"
VERSION = 2
HEADER = 256
OP_WORDS = 32
NOWHERE = 0xFFFFFFFF
TOGETHER = 8
"""Outputs that a kernel computes at once."""
SHORTEST_GAP = 4
"""Fewer inputs without a weight than that are not worth a new run."""
MOST_THRESHOLDS = 8
CODES = {"product": 0, "apply": 1, "lookup": 2, "maximum": 3, "bytes": 4}


def write_blob(program: Program, task: Task, keep: Mapping[str, float], run_sha256: str) -> bytes:
    """The blob of a program.

    Args:
        program: float32, or quantised by export.c.int8.
        task: what it reads and answers.
        keep: the manifest's thresholds by the share of true types that they keep, such as {"0.98": 0.01}.
        run_sha256: hex, of the run's weights.

    Raises:
        ValueError: if there are more thresholds than a blob has room for, or the program is of another task.
    """
    if len(keep) > MOST_THRESHOLDS:
        raise ValueError(f"{len(keep)} thresholds: a blob has room for {MOST_THRESHOLDS}")
    logits = sum(size for _, size in program.logits)
    if (program.samples, logits) != (task.input.side**2, task.logits):
        raise ValueError(f"a program of {program.samples} samples and {logits} logits is none of {task.name!r}")
    layout, data = lay_out(program), _Data(HEADER // 4 + OP_WORDS * len(program.ops))
    bytes_of = {op.source: op.row for op in program.ops if op.row is not None}
    records = [_record(op, layout, bytes_of.get(op.out), data) for op in program.ops]
    table, text = np.array(task_table(task), np.uint32), json.dumps(task.to_json()).encode() + b"\0"
    known = struct.pack(
        "<11I32s",
        *(int(any(op.row is not None for op in program.ops)), len(program.ops), HEADER // 4, layout.slots),
        *(layout.of[LUMA], 0, len(keep)),
        *(data.add(table), len(table), data.add(np.frombuffer(text, np.uint8)), len(text)),
        bytes.fromhex(run_sha256),
    )
    for name, threshold in sorted(keep.items(), key=lambda item: float(item[0])):
        known += struct.pack("<2f", float(name), threshold)
    body = known.ljust(HEADER - 64, b"\0") + b"".join(records) + data.joined()
    head = struct.pack("<8sIIQ32s8x", MAGIC, VERSION, HEADER, 64 + len(body), hashlib.sha256(body).digest())
    return head + body


class _Data:
    """Arrays one after another, each at a multiple of 64 bytes; the same array twice is one."""

    def __init__(self, start: int) -> None:
        self.parts = [b"\0" * (-4 * start % 64)]
        self.at = start + len(self.parts[0]) // 4
        self.known: dict[bytes, int] = {}

    def add(self, array: NDArray) -> int:
        """Its offset in words."""
        content = array.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self.known:
            self.known[key] = self.at
            self.parts.append(content + b"\0" * (-len(content) % 64))
            self.at += len(self.parts[-1]) // 4
        return self.known[key]

    def joined(self) -> bytes:
        return b"".join(self.parts)


def _record(op: Op, layout: Layout, row: tuple[float, int] | None, data: _Data) -> bytes:
    """An operation's 32 words; `row` is how its output is rounded to bytes, if a product of bytes reads it."""
    weights, runs = np.zeros(0, np.float32), np.zeros(0, np.uint32)
    inputs, table_rows, kind = 0, 0, op.kind
    if op.matrix is not None:
        kind = "product" if op.row is None else "bytes"
        weights, runs = pack(op)
        inputs = len(op.matrix) if op.row is None else len(op.matrix) // 4
    elif op.table is not None:
        weights, table_rows = op.table, len(op.table)
    elif op.index is not None:
        runs = np.ascontiguousarray(np.c_[np.full(op.size, op.index.shape[1]), op.index], np.uint32).ravel()
        inputs = int(op.index.max()) + 1
    bias = _bias(op)
    source = NOWHERE if not op.source else (layout.of if op.row is None else layout.bytes_of)[op.source]
    scale, zero = row or (1.0, 0)
    return struct.pack(
        "<24I2f6I",
        *(CODES[kind], ACTS.index(op.act), inputs, op.size // op.patches, op.patches, source),
        *(layout.of.get(op.out, NOWHERE), layout.bytes_of.get(op.out, NOWHERE)),
        *(word for operand in (op.pre, op.scale, op.shift) for word in _operand(operand, layout)),
        *(data.add(weights), weights.nbytes // 4, data.add(runs), len(runs)),
        *(NOWHERE if bias is None else data.add(bias), NOWHERE if op.row is None else data.add(_unit(op)), table_rows),
        *(1.0 / np.float32(scale), float(zero)),
        *[0] * 6,
    )


def _operand(operand: Operand | None, layout: Layout) -> tuple[int, int, int]:
    return (NOWHERE, 1, 1) if operand is None else (layout.of[operand.value], operand.div, operand.mod)


def _unit(op: Op) -> NDArray[np.float32]:
    """What one unit of a sum of bytes is worth, for each output."""
    assert op.row is not None and op.unit is not None
    return (op.unit * np.float32(op.row[0])).astype(np.float32)


def _bias(op: Op) -> NDArray[np.float32] | None:
    """The bias; of a product of bytes less what the zero point adds to each sum."""
    if op.row is None:
        return op.bias
    assert op.matrix is not None
    due = -op.row[0] * op.row[1] * op.matrix.astype(np.float64).sum(0)
    return (due if op.bias is None else due + op.bias).astype(np.float32)


def pack(op: Op) -> tuple[NDArray, NDArray[np.uint32]]:
    """A product's weights and runs as the kernel reads them.

    Returns:
        float32 [steps, 8] or int8 [steps, 8, 4], and uint32 words; a step is one input, of bytes four.
    """
    matrix = op.matrix
    assert matrix is not None
    step = 1 if op.row is None else 4
    if op.unit is not None:
        matrix = np.round(matrix / op.unit).astype(np.int8)
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % TOGETHER)))
    weights, runs = [], []
    for group in padded.reshape(len(matrix), -1, TOGETHER).transpose(1, 0, 2):
        steps = group.reshape(-1, step, TOGETHER).transpose(0, 2, 1)
        spans = _runs(np.flatnonzero((steps != 0).any((1, 2))))
        runs.append(np.array([len(spans), *(word for start, end in spans for word in (start, end - start))], np.uint32))
        weights += [steps[start:end].reshape(-1) for start, end in spans]
    joined = np.concatenate(weights) if weights else np.zeros(0, padded.dtype)
    return np.ascontiguousarray(joined), np.concatenate(runs)


def _runs(used: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Runs (start, end) that cover the sorted numbers, joined over short gaps."""
    breaks = np.flatnonzero(np.diff(used) > SHORTEST_GAP)
    starts, ends = used[np.r_[0, breaks + 1]] if len(used) else used, used[np.r_[breaks, -1]] if len(used) else used
    return [(int(a), int(b) + 1) for a, b in zip(starts, ends, strict=True)]
