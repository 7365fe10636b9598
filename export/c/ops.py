"""A compiled model as a list of a few operations on rows of values, each with all that follows it fused in:

    product   out = act((x W + bias + pre) scale + shift)       act: nothing, ReLU or sigmoid
    apply     out = act((x + pre) scale + shift)                pre, scale, shift: rows, repeated over positions
    lookup    out = table[qindex]
    maximum   out = max of listed values of x

Every value is a row of so many numbers for each block; reshapes are only other names for a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = ("product", "apply", "lookup", "maximum")
ACTS = ("none", "relu", "sigmoid")
LUMA = "luma"


@dataclass(frozen=True)
class Operand:
    """A row read beside the main one: value i of the output meets its value (i // div) % mod."""

    value: str
    div: int
    mod: int


@dataclass(frozen=True, eq=False)
class Op:
    """One operation.

    Attributes:
        kind: of KINDS.
        out: name of the row it makes.
        size: values of that row.
        source: name of the row x that it reads; empty for a lookup.
        patches: of a product: x is so many rows side by side, each multiplied by the matrix.
        matrix, bias: of a product: float32 [in, out] and [out] or None.
        table: of a lookup: float32 [256, size], or [1, size] for a constant.
        index: of a maximum: int64 [size, window].
        pre, scale, shift: what is added, multiplied and added.
        act: of ACTS.
        row: of a product of bytes: scale and zero point of the row x, whose matrix holds whole multiples of `unit`.
        unit: scale of each output's weights, float32 [out].
    """

    kind: str
    out: str
    size: int
    source: str = ""
    patches: int = 1
    matrix: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    table: NDArray[np.float32] | None = None
    index: NDArray[np.int64] | None = None
    pre: Operand | None = None
    scale: Operand | None = None
    shift: Operand | None = None
    act: str = "none"
    row: tuple[float, int] | None = None
    unit: NDArray[np.float32] | None = None

    def reads(self) -> list[str]:
        """Names of all rows that it reads."""
        beside = [o.value for o in (self.pre, self.scale, self.shift) if o is not None]
        return [self.source, *beside] if self.source else beside


@dataclass(frozen=True)
class Program:
    """The operations in order.

    Attributes:
        ops: in order.
        logits: the rows that make up a block's logits, side by side, with their sizes.
        samples: of a block: the row `luma`, in units of 8-bit samples.
    """

    ops: tuple[Op, ...]
    logits: tuple[tuple[str, int], ...]
    samples: int


def run_program(
    program: Program, rows: NDArray[np.float32], qindex: NDArray[np.integer]
) -> dict[str, NDArray[np.float32]]:
    """Every row that a program makes, by name: the slow twin of the C library, in numpy.

    Args:
        program: from export.c.translate.
        rows: samples in units of 8-bit samples, float32 [N, samples].
        qindex: 0-255, integer [N].
    """
    made = {LUMA: rows}
    for op in program.ops:
        if op.kind == "lookup":
            assert op.table is not None
            made[op.out] = op.table[qindex if len(op.table) > 1 else np.zeros_like(qindex)]
            continue
        x = made[op.source]
        if op.kind == "maximum":
            made[op.out] = x[:, op.index].max(-1)
            continue
        if op.row is not None:
            x = rounded(x, *op.row)
        if op.matrix is not None:
            x = (x.reshape(len(rows) * op.patches, -1) @ op.matrix).reshape(len(rows), -1)
            x = x if op.bias is None else x + np.tile(op.bias, op.patches)
        for operand, multiply in ((op.pre, False), (op.scale, True), (op.shift, False)):
            if operand is not None:
                beside = made[operand.value][:, np.arange(op.size) // operand.div % operand.mod]
                x = x * beside if multiply else x + beside
        if op.act == "sigmoid":
            x = (1 / (1 + np.exp(-x))).astype(np.float32)
        made[op.out] = np.maximum(x, 0) if op.act == "relu" else x
    return made


def rounded(x: NDArray[np.float32], scale: float, zero: int) -> NDArray[np.float32]:
    """A row after it went through bytes: scale (q - zero), q in 0-255."""
    inverse = np.float32(1) / np.float32(scale)
    return (np.floor(np.clip(x * inverse + np.float32(zero), 0, 255) + np.float32(0.5)) - zero) * np.float32(scale)


def logits_of(program: Program, made: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The logits [N, task.logits] among the rows that `run_program` made."""
    return np.concatenate([made[name] for name, _ in program.logits], axis=1)
