"""Batches of any size: a few blocks are computed in another way than many, and get the same answers to the bit."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from description import BLOCKS
from export.c.blob import write_blob
from export.c.ops import Op, Operand, Program, logits_of, run_program
from tests.export.c.test_library import products_of_bytes, small_program

# Around the lanes of each way (4, 8, 12, 24, 48), where another way is faster (5, 17, 25), and a batch (96).
COUNTS = (1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 20, 21, 24, 25, 28, 41, 47, 48, 49, 57, 64, 72, 95, 96, 97, 110, 144, 193)


def uneven_groups() -> Program:
    """Floats and bytes in groups of 8 outputs whose runs are the same, others, none, or cut off by the last output."""
    rng = np.random.default_rng(5)
    # Every input, the same; the first half, the same; fewer; none, none; the last four outputs.
    matrix = rng.integers(-63, 64, (256, 60)).astype(np.float32)
    matrix[128:, 16:32] = 0
    matrix[:40, 32:40] = 0
    matrix[:, 40:56] = 0
    last = rng.normal(size=(60, 7)).astype(np.float32) * 1e-5
    ops = (
        Op("lookup", "one", 1, table=np.ones((1, 1), np.float32)),
        Op("apply", "copy", 256, "luma", scale=Operand("one", 256, 1)),
        Op("product", "floats", 60, "luma", matrix=matrix),
        Op("product", "bytes", 60, "copy", matrix=matrix, unit=np.ones(60, np.float32), row=(1.0, 0)),
        Op("product", "first", 7, "floats", matrix=last),
        Op("product", "second", 7, "bytes", matrix=last),
    )
    return Program(ops, (("first", 7), ("second", 7)), 256)


MADE = {
    "every operation": small_program,
    "uneven groups": uneven_groups,
    "bytes": lambda: products_of_bytes(1),
    "patches of bytes": lambda: products_of_bytes(2),
}


def check_counts(model, blocks, qindex):
    whole = model.predict_blocks(blocks, qindex)
    assert len(np.unique(whole[0], axis=0)) > len(blocks) // 2
    for count in COUNTS:
        for start in (0, len(blocks) - count):  # every block takes other places
            part = slice(start, start + count)
            for made, expected in zip(model.predict_blocks(blocks[part], qindex[part]), whole, strict=True):
                assert np.array_equal(made, expected[part]), (count, start)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_block_gets_the_same_answer_in_any_batch(open_model, blobs, real_blocks, precision):
    check_counts(open_model(blobs("compact", precision)), real_blocks[0][:256], real_blocks[1][:256])


@pytest.mark.parametrize("name", MADE)
def test_small_programs_in_any_batch(open_model, real_blocks, name):
    blob = write_blob(MADE[name](), BLOCKS, {}, "00" * 32)
    check_counts(open_model(blob), real_blocks[0][:256], real_blocks[1][:256])


def test_uneven_groups_agree_with_their_twin(open_model, real_blocks):
    blocks, qindex, program = real_blocks[0][:53], real_blocks[1][:53], uneven_groups()
    expected = logits_of(program, run_program(program, blocks.reshape(-1, 256).astype(np.float32), qindex))
    assert np.array_equal(expected[:, :7].round(2), expected[:, 7:].round(2)) and expected.std(0).min() > 0.1
    for count in (3, 53):
        logits, _ = open_model(write_blob(program, BLOCKS, {}, "00" * 32)).predict_blocks(
            blocks[:count], qindex[:count]
        )
        np.testing.assert_allclose(logits, expected[:count], atol=1e-3)


def test_a_blob_may_lie_at_any_word(open_model, library, real_blocks):
    """Vectors of weights are read from a linked-in array as it happens to lie."""
    blocks, qindex = real_blocks[0][:5], real_blocks[1][:5].astype(np.uint8)
    blob = write_blob(uneven_groups(), BLOCKS, {}, "00" * 32)
    model = open_model(blob)
    expected, _ = model.predict_blocks(blocks, qindex)
    memory = np.empty(len(blob) + 128, np.uint8)
    for word in range(1, 16):
        start = -memory.ctypes.data % 64 + 4 * word
        memory[start : start + len(blob)] = np.frombuffer(blob, np.uint8)
        handle, logits = ctypes.c_void_p(), np.empty((5, model.logits), np.float32)
        assert library.av1part_open_memory(ctypes.byref(handle), memory.ctypes.data + start, len(blob)) == 0
        assert library.av1part_use(handle, model.instructions.encode()) == 0
        scratch = model.for_thread()._scratch
        code = library.av1part_predict_blocks(
            *(handle, blocks.ctypes.data, 5, 8, blocks.itemsize, qindex.ctypes.data, logits.ctypes.data, None),
            *(scratch.ctypes.data, scratch.nbytes),
        )
        library.av1part_close(handle)
        assert code == 0 and np.array_equal(logits, expected)
