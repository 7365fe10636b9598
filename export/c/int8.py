"""The int8 form of a program: large products read rows as bytes and weights of 7 bits, as export/onnx_int8.py defines.

Rows that a sum or a table reads stay float32 there; only what a product of bytes reads is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.c.ops import LUMA, Op, Program, run_program
from export.onnx_int8 import SMALLEST, Range, row_parameters, weight_values


def quantisable(program: Program) -> list[Op]:
    """The products to quantise: large, not the first, and behind an operation that can write bytes."""
    makers = {op.out: op for op in program.ops}

    def is_first(op: Op) -> bool:
        if op.source == LUMA:
            return True
        maker = makers[op.source]
        return maker.kind != "product" and is_first(maker)

    def can_be(op: Op) -> bool:
        if op.matrix is None or op.matrix.size < SMALLEST or len(op.matrix) % 4 or is_first(op):
            return False
        maker = makers[op.source]
        return maker.kind in ("product", "apply") and maker.size // maker.patches % 4 == 0

    return [op for op in program.ops if can_be(op)]


def row_ranges(
    program: Program, batches: Iterable[tuple[NDArray[np.float32], NDArray[np.integer]]]
) -> dict[str, Range]:
    """Least and largest value of each row that `quantise_program` rounds.

    Args:
        program: from export.c.ops.build_program.
        batches: rows float32 [N, program.samples] in units of 8-bit samples, and qindex [N]; real blocks.
    """
    names = {op.source for op in quantisable(program)}
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for rows, qindex in batches:
        made = run_program(program, rows, qindex)
        for name, (low, high) in ranges.items():
            ranges[name] = min(low, float(made[name].min())), max(high, float(made[name].max()))
    return ranges


def quantise_program(program: Program, ranges: Mapping[str, Range]) -> Program:
    """The program with its large products quantised.

    Args:
        program: float32.
        ranges: from `row_ranges` on the same program.
    """
    chosen = {op.out for op in quantisable(program)}
    return replace(program, ops=tuple(_quantised(op, ranges) if op.out in chosen else op for op in program.ops))


def _quantised(op: Op, ranges: Mapping[str, Range]) -> Op:
    assert op.matrix is not None
    values, unit = weight_values(op.matrix)
    scale, zero = row_parameters(ranges[op.source])
    return replace(op, matrix=values * unit, unit=unit, row=(float(scale), int(zero)))
