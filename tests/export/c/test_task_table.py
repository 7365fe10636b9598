"""Tasks as the C library reads them: what is in the table, what the library does with it, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from description import BLOCKS, BLOCKS_IN_CONTEXT, Head, InputForm, Level, Task, chain_rule, level_of
from errors import ArtefactError, MissingComponentError
from export.c.blob import write_blob
from export.c.ops import Op, Program
from export.c.task_table import task_table
from infer.sessions.c_library import CModel
from partition import Partition
from tests.export.c.test_library import sample_plane, signed

NONE, HORZ, SPLIT, VERT_4 = Partition.NONE, Partition.HORZ, Partition.SPLIT, Partition.VERT_4
# Types that are not the first ids, heads in no other task's order, and a node of another size than 16.
ODD_LEVEL = Level(
    32,
    (NONE, HORZ, SPLIT, VERT_4),
    (
        Head("first", ("VERT_4", "REST")),
        Head("rest", ("NONE", "HORZ", "SPLIT"), ("first", "REST")),
    ),
)
ODD = Task("odd", InputForm(32), (ODD_LEVEL,))
TWO_LEVELS = Task("two-levels", InputForm(32), (level_of(32), level_of(16)))
TASKS = [BLOCKS, BLOCKS_IN_CONTEXT, ODD, TWO_LEVELS]


def program_of(task: Task) -> Program:
    """Logits that are sums of samples and differ from each other."""
    samples = task.input.side**2
    matrix = np.random.default_rng(0).normal(size=(samples, task.logits)).astype(np.float32) / samples
    return Program((Op("product", "logits", task.logits, "luma", matrix=matrix),), (("logits", task.logits),), samples)


def blob_of(task: Task) -> bytes:
    return write_blob(program_of(task), task, {}, "00" * 32)


def test_the_table_of_blocks():
    """Typed in from the page: a reader in C that was compiled long ago must find the same."""
    assert task_table(BLOCKS) == [
        *(16, 0, 1),
        *(16, 10, 5, 14),
        *range(10),
        *(2, 4, 2, 4, 2),
        *(1, 0),
        *(3, 1, 3, 6),
        *(3, 1, 3, 7),
        *(2, 1, 2),
        *(3, 1, 4, 8),
        *(3, 1, 4, 9),
        *(3, 1, 4, 10),
        *(3, 1, 4, 11),
        *(3, 1, 5, 12),
        *(3, 1, 5, 13),
    ]


@pytest.mark.parametrize("task", [BLOCKS, ODD], ids=lambda task: task.name)
def test_the_library_reads_its_task_from_the_blob(open_model, task):
    model = open_model(blob_of(task))
    (level,) = task.levels
    assert model.task == task
    assert (model.side, model.types, model.logits) == (task.input.side, len(level.types), level.logits)
    luma = sample_plane(3 * model.side + 5, 2 * model.side)
    blocks = luma[: 3 * model.side].reshape(3, model.side, 2, model.side).swapaxes(1, 2).reshape(6, model.side, -1)
    logits, probability = model.predict_blocks(blocks, np.arange(6))
    expected = blocks.reshape(6, -1) @ program_of(task).ops[0].matrix
    assert np.abs(logits - expected).max() < 1e-4 and logits.std(0).min() > 1e-3
    assert np.abs(probability - chain_rule(logits, level)).max() < 1e-6
    assert np.abs(probability.sum(1) - 1).max() < 1e-6

    threshold = float(np.median(probability[:, 2]))
    plane, masks = model.predict_plane(luma, 0, threshold)
    assert plane.shape == (4, 2, len(level.types)) and np.array_equal(plane[:3].reshape(6, -1), probability)
    ids = np.array(level.types)
    sets = (probability >= np.float32(threshold)) @ (1 << ids) | 1
    assert np.array_equal(masks[:3].ravel(), sets) and (masks[3] == 0x3FF).all() and len(set(sets)) > 1


@pytest.mark.parametrize("task", [BLOCKS_IN_CONTEXT, TWO_LEVELS], ids=lambda task: task.name)
def test_what_is_sound_and_not_served(library, task, tmp_path):
    (tmp_path / "blob").write_bytes(blob_of(task))
    for source in (blob_of(task), tmp_path / "blob"):
        with pytest.raises(MissingComponentError, match="another task"):
            CModel(library, source)


@pytest.mark.parametrize("samples", [255, 1024])
def test_a_program_of_another_task(samples):
    program = Program(program_of(BLOCKS).ops, (("logits", 14),), samples)
    with pytest.raises(ValueError, match="none of 'blocks'"):
        write_blob(program, BLOCKS, {}, "00" * 32)


# Words of the table of BLOCKS, as above: 0 unit, 3 node size, 7 the first id, 17 the first width, 22 the first path.
BAD_WORDS = {
    "no unit": (0, 0),
    "odd unit": (0, 48),
    "huge unit": (0, 1 << 16),
    "border": (1, 17),
    "no level": (2, 0),
    "more levels": (2, 2),
    "many levels": (2, 0xFFFFFFFF),
    "small node": (3, 4),
    "node above the unit": (3, 32),
    "node that does not divide": (3, 12),
    "one type": (4, 1),
    "eleven types": (4, 11),
    "many types": (4, 0xFFFFFFFF),
    "no head": (5, 0),
    "a head more": (5, 6),
    "many heads": (5, 0xFFFFFFFF),
    "fewer logits": (6, 13),
    "more logits": (6, 15),
    "first type is not NONE": (7, 1),
    "type twice": (8, 2),
    "unknown type": (16, 10),
    "head of one class": (17, 1),
    "head of three classes": (17, 3),
    "huge head": (17, 0xFFFFFFFF),
    "no factor": (22, 0),
    "more factors than heads": (22, 6),
    "many factors": (22, 0xFFFFFFFF),
    "factor behind the logits": (23, 14),
    "far factor": (23, 0xFFFFFFFF),
    "last path longer": (-4, 4),
    "last path shorter": (-4, 2),
}
TASK_AT, TASK_SIZE, TEXT_AT, TEXT_SIZE = range(23, 27)


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_tables_behind_a_right_hash(library, name):
    words = np.frombuffer(blob_of(BLOCKS), np.uint32).copy()
    CModel(library, signed(words))
    at, value = BAD_WORDS[name]
    start, size = int(words[TASK_AT]), int(words[TASK_SIZE])
    assert words[start : start + size].tolist() == task_table(BLOCKS)
    words[start + at + (size if at < 0 else 0)] = value
    with pytest.raises(ArtefactError, match="not as it was written"):
        CModel(library, signed(words))


BAD_PLACES = {
    "table far away": (TASK_AT, 0xFFFFFFF0),
    "table of nothing": (TASK_SIZE, 0),
    "half a table": (TASK_SIZE, 20),
    "longer table": (TASK_SIZE, 64),
    "text far away": (TEXT_AT, 0x40000000),
    "text of nothing": (TEXT_SIZE, 0),
    "text without an end": (TEXT_SIZE, 30),
    "text behind its end": (TEXT_SIZE, 0xFFFFFFF0),
}


@pytest.mark.parametrize("name", BAD_PLACES)
def test_bad_places_behind_a_right_hash(library, name):
    words = np.frombuffer(blob_of(BLOCKS), np.uint32).copy()
    at, value = BAD_PLACES[name]
    assert words[at] != value
    words[at] = value
    with pytest.raises(ArtefactError, match="not as it was written"):
        CModel(library, signed(words))


@pytest.mark.parametrize("text", [b"{}", b'{"name": 1}', b"no JSON", b"\xff\xfe"])
def test_a_text_that_is_no_task(library, text):
    blob = bytearray(blob_of(BLOCKS))
    words = np.frombuffer(blob, np.uint32)
    start, size = int(4 * words[TEXT_AT]), int(words[TEXT_SIZE])
    blob[start : start + size] = text.ljust(size - 1) + b"\0"
    with pytest.raises(ArtefactError, match="task cannot be read"):
        CModel(library, signed(np.frombuffer(blob, np.uint32))).task  # noqa: B018


def test_a_text_of_another_task_than_the_numbers(library):
    blob, other = bytearray(blob_of(BLOCKS)), blob_of(ODD)
    words, odd = np.frombuffer(blob, np.uint32), np.frombuffer(other, np.uint32)
    start, size = int(4 * words[TEXT_AT]), int(words[TEXT_SIZE])
    text = other[4 * odd[TEXT_AT] : 4 * odd[TEXT_AT] + odd[TEXT_SIZE] - 1]
    blob[start : start + size] = text.ljust(size - 1) + b"\0"
    with pytest.raises(ArtefactError, match="not the one of its numbers"):
        CModel(library, signed(np.frombuffer(blob, np.uint32))).task  # noqa: B018
