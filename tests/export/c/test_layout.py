"""Rows that are needed at the same time never share a slot."""

from __future__ import annotations

import numpy as np
import pytest

from export.c.layout import lay_out
from export.c.ops import LUMA
from tests.export.c.conftest import TRUNKS


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("form", [1, 2], ids=["fp32", "int8"])
def test_no_row_is_overwritten_before_it_is_read(programs, trunk, form):
    """Plays the program on a column of slots that holds, for each, whose value it is."""
    program = programs(trunk)[form]
    layout = lay_out(program)
    owner = np.full(layout.slots, "", dtype=object)
    owner[layout.of[LUMA] : layout.of[LUMA] + program.samples] = LUMA
    sizes = {op.out: op.size for op in program.ops} | {LUMA: program.samples}

    def check(name, as_bytes=False):
        at = layout.bytes_of[name] if as_bytes else layout.of[name]
        length = -(-sizes[name] // 4) if as_bytes else sizes[name]
        assert set(owner[at : at + length]) == {name + "8" * as_bytes}

    for op in program.ops:
        if op.source:
            check(op.source, op.row is not None)
        for name in op.reads():
            if name != op.source:
                check(name)
        if op.out in layout.of:
            owner[layout.of[op.out] : layout.of[op.out] + op.size] = op.out
        if op.out in layout.bytes_of:
            owner[layout.bytes_of[op.out] : layout.bytes_of[op.out] + -(-op.size // 4)] = op.out + "8"
        assert op.out in layout.of or op.out in layout.bytes_of
    at = 0
    for name, size in program.logits:
        assert layout.of[name] == at
        check(name)
        at += size


def test_slots_are_used_again(programs):
    _, program, _ = programs("compact")
    assert lay_out(program).slots < sum(op.size for op in program.ops) / 3
