"""description.py: what may be a task, the chain rule beside a walk down the tree, and what files say of tasks."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from description import (
    BLOCKS,
    BLOCKS_IN_CONTEXT,
    NO_SAY,
    PARTITION_HIERARCHY,
    Head,
    InputForm,
    Level,
    Task,
    chain_rule,
    hierarchy_of,
    level_of,
)
from partition import Partition
from tests.helpers import HORZ, LEGAL, NONE, SPLIT, VERT

P = Partition
SIZES = (8, 16, 32, 64)
SUPERBLOCK = Task("superblock", InputForm(64), tuple(map(level_of, (64, 32, 16, 8))))
TOY = Task("toy", InputForm(32, 4), (level_of(32), level_of(16)))
FLAT = Level(16, tuple(P), (Head("types", tuple(p.name for p in P)),))
FLAT_TASK = Task("flat", InputForm(16), (FLAT,))
FEW = Level(32, (P.NONE, P.VERT, P.SPLIT, P.HORZ_4), hierarchy_of((P.NONE, P.VERT, P.SPLIT, P.HORZ_4)))
LEVELS = {**{f"all of {size}": level_of(size) for size in SIZES}, "flat": FLAT, "few": FEW}


# --- hierarchies ------------------------------------------------------------------------------------------------------


def test_the_hierarchy_over_all_types_is_designs():
    level = level_of(16)
    assert level.heads == PARTITION_HIERARCHY
    assert {name: (part.start, part.stop) for name, part in level.slices.items()} == {
        "stage1": (0, 2),
        "macro": (2, 6),
        "rect": (6, 8),
        "ab": (8, 12),
        "four": (12, 14),
    }
    assert level.logits == 14 and [p.value for p in level.types] == list(range(10))


# class of each partition in each head, NONE to VERT_4
TARGETS = {
    "stage1": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "macro": [-1, 1, 1, 0, 2, 2, 2, 2, 3, 3],
    "rect": [-1, 0, 1, -1, -1, -1, -1, -1, -1, -1],
    "ab": [-1, -1, -1, -1, 0, 1, 2, 3, -1, -1],
    "four": [-1, -1, -1, -1, -1, -1, -1, -1, 0, 1],
}


@pytest.mark.parametrize("head", TARGETS)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_head_targets(head, size):
    assert level_of(size).targets[head].tolist() == TARGETS[head]


@pytest.mark.parametrize("size", SIZES)
def test_levels_have_every_legal_type(size):
    level = level_of(size)
    assert [int(p) for p in level.types] == list(LEGAL[size])
    assert level.columns.tolist() == [p if p in LEGAL[size] else NO_SAY for p in range(10)]


def test_at_8_there_are_no_ab_and_four_way_heads():
    level = level_of(8)
    assert level.heads == (
        Head("stage1", ("NONE", "PARTITIONED")),
        Head("macro", ("SPLIT", "RECT"), ("stage1", "PARTITIONED")),
        Head("rect", ("HORZ", "VERT"), ("macro", "RECT")),
    )
    assert level.logits == 6
    assert level.targets["macro"].tolist() == [-1, 1, 1, 0, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("types", "heads"),
    [
        ((P.NONE, P.SPLIT), [("stage1", ("NONE", "SPLIT"))]),
        ((P.NONE, P.HORZ, P.VERT), [("stage1", ("NONE", "PARTITIONED")), ("rect", ("HORZ", "VERT"))]),
        ((P.NONE, P.HORZ), [("stage1", ("NONE", "HORZ"))]),
        ((P.NONE, P.VERT, P.SPLIT), [("stage1", ("NONE", "PARTITIONED")), ("macro", ("VERT", "SPLIT"))]),
        (
            (P.NONE, P.SPLIT, P.HORZ_A, P.VERT_B),
            [("stage1", ("NONE", "PARTITIONED")), ("macro", ("SPLIT", "AB")), ("ab", ("HORZ_A", "VERT_B"))],
        ),
        (
            (P.NONE, P.HORZ_4, P.VERT_4),
            [("stage1", ("NONE", "PARTITIONED")), ("four", ("HORZ_4", "VERT_4"))],
        ),
    ],
)
def test_a_class_that_one_type_is_left_of_becomes_that_type(types, heads):
    found = hierarchy_of(types)
    assert [(head.name, head.classes) for head in found] == heads
    level = Level(32, types, found)
    assert set(np.concatenate([[p.value for p in level.members("stage1", c)] for c in found[0].classes])) == {
        int(p) for p in types
    }


def test_every_choice_of_types_has_a_hierarchy_that_fits():
    for count in range(1, 10):
        for others in itertools.combinations(tuple(P)[1:], count):
            types = (P.NONE, *others)
            level = Level(16, types, hierarchy_of(types))
            assert np.allclose(chain_rule(np.ones((1, level.logits)), level).sum(), 1)


def test_members_of_classes():
    level = level_of(16)
    assert level.members("stage1", "PARTITIONED") == tuple(P)[1:]
    assert level.members("macro", "AB") == (P.HORZ_A, P.HORZ_B, P.VERT_A, P.VERT_B)
    assert level.members("macro", "SPLIT") == (P.SPLIT,)
    assert level.head("ab").divides == ("macro", "AB")
    with pytest.raises(KeyError):
        level.head("octo")


# --- the chain rule ---------------------------------------------------------------------------------------------------


def slow_probability(level, z):
    """One node: walk down the tree of heads, multiplying, until each type is met."""
    found = {}

    def walk(head, share):
        part = level.slices[head.name]
        exps = [math.exp(float(v)) for v in np.asarray(z[part], np.float64) - max(z[part])]
        for of, e in zip(head.classes, exps, strict=True):
            below = next((other for other in level.heads if other.divides == (head.name, of)), None)
            if below is None:
                found[P[of]] = share * e / math.fsum(exps)
            else:
                walk(below, share * e / math.fsum(exps))

    walk(level.heads[0], 1.0)
    return [found[p] for p in level.types]


@pytest.mark.parametrize("name", LEVELS)
def test_the_chain_rule_is_a_walk_down_the_tree(name):
    level = LEVELS[name]
    logits = np.random.default_rng(0).normal(0, 3, (200, level.logits))
    assert np.allclose(chain_rule(logits, level), [slow_probability(level, z) for z in logits], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0, 1e4])
def test_rows_sum_to_one_at_any_scale(name, scale):
    level = LEVELS[name]
    logits = (np.random.default_rng(1).normal(0, 1, (5, 100, level.logits)) * scale).astype(np.float32)
    probability = chain_rule(logits, level)
    assert probability.shape == (5, 100, len(level.types)) and probability.dtype == np.float64
    assert (probability >= 0).all() and np.allclose(probability.sum(-1), 1, atol=1e-12)


@pytest.mark.parametrize("name", LEVELS)
def test_factors_are_one_logit_of_each_head_on_the_way(name):
    """From the first head down; types that no head tells apart any more are at its end."""
    level = LEVELS[name]
    owner = {at: (h, at - part.start) for h, part in level.slices.items() for at in range(part.start, part.stop)}
    assert len(level.factors) == len(level.types)
    for partition, path in zip(level.types, level.factors, strict=True):
        steps = [owner[at] for at in path]
        assert steps[0][0] == level.heads[0].name
        for (above, number), (below, _) in itertools.pairwise(steps):
            assert level.head(below).divides == (above, level.head(above).classes[number])
        last, number = steps[-1]
        assert level.head(last).classes[number] == partition.name


def test_factors_of_the_blocks_are_the_table_that_c_reads():
    assert level_of(16).factors == (
        *((0,), (1, 3, 6), (1, 3, 7), (1, 2)),
        *((1, 4, 8), (1, 4, 9), (1, 4, 10), (1, 4, 11), (1, 5, 12), (1, 5, 13)),
    )
    assert FLAT.factors == tuple((i,) for i in range(10))


# --- what is refused --------------------------------------------------------------------------------------------------

FIRST = Head("first", ("NONE", "REST"))
REST = Head("rest", ("HORZ", "VERT"), ("first", "REST"))
THREE = (P.NONE, P.HORZ, P.VERT)
BAD_LEVELS = {
    "a size that is no node's": (12, THREE, (FIRST, REST), "8, 16, 32 or 64"),
    "nodes of 128": (128, THREE, (FIRST, REST), "8, 16, 32 or 64"),
    "a 4-way type at 8": (8, (P.NONE, P.HORZ_4), (Head("h", ("NONE", "HORZ_4")),), "cannot have"),
    "no NONE": (16, (P.HORZ, P.VERT), (Head("h", ("HORZ", "VERT")),), "NONE among them"),
    "types out of order": (16, (P.NONE, P.VERT, P.HORZ), (FIRST, REST), "ascending"),
    "a type twice": (16, (P.NONE, P.HORZ, P.HORZ), (FIRST, REST), "ascending"),
    "no head": (16, THREE, (), "first head"),
    "the first head divides something": (16, THREE, (REST, FIRST), "first head"),
    "a name twice": (16, THREE, (FIRST, replace(REST, name="first")), "twice"),
    "one class": (16, (P.NONE,), (Head("h", ("NONE",)),), "fewer than two"),
    "a class twice": (16, THREE, (Head("h", ("NONE", "HORZ", "HORZ")),), "one twice"),
    "a head of nothing": (16, THREE, (FIRST, replace(REST, divides=("first", "ALL"))), "leaves open"),
    "two heads of one class": (
        16,
        THREE,
        (FIRST, REST, replace(REST, name="again")),
        "leaves open",
    ),
    "two first heads": (16, THREE, (FIRST, replace(REST, divides=None)), "not the level's types|one head alone"),
    "a class that is no type": (16, THREE, (FIRST,), "not the level's types"),
    "a type that no head tells": (16, (*THREE, P.SPLIT), (FIRST, REST), "not the level's types"),
    "a type that two heads tell": (
        16,
        THREE,
        (Head("first", ("NONE", "HORZ", "REST")), REST),
        "not the level's types",
    ),
    "types of a head apart": (
        16,
        (P.NONE, P.HORZ, P.VERT, P.SPLIT),
        (Head("first", ("NONE", "A", "B")), Head("a", ("HORZ", "SPLIT"), ("first", "A")), Head("b", ("VERT", "X"))),
        "leaves open|types|alone",
    ),
    "types of a last head not side by side": (
        16,
        (P.NONE, P.HORZ, P.VERT, P.SPLIT),
        (Head("first", ("NONE", "VERT", "A")), Head("a", ("HORZ", "SPLIT"), ("first", "A"))),
        "do not follow",
    ),
}


@pytest.mark.parametrize("case", BAD_LEVELS)
def test_levels_that_do_not_fit_are_refused(case):
    size, types, heads, message = BAD_LEVELS[case]
    with pytest.raises(ValueError, match=message):
        Level(size, types, heads)


def test_the_levels_of_that_table_fit_where_nothing_is_wrong():
    assert Level(16, THREE, (FIRST, REST)).logits == 4


@pytest.mark.parametrize(
    "values",
    [(8,), (48,), (128,), (0,), (-16,), (16, -1), (16, 17), (16, 0, 0), (16, 0, 3)],
)
def test_input_forms_that_no_model_reads_are_refused(values):
    with pytest.raises(ValueError, match="no model reads"):
        InputForm(*values)


@pytest.mark.parametrize(
    ("form", "side"), [(InputForm(16), 16), (InputForm(16, 8, 2), 32), (InputForm(64, 16), 96), (InputForm(32, 32), 96)]
)
def test_a_forms_side_is_its_unit_between_two_borders(form, side):
    assert form.side == side


@pytest.mark.parametrize(
    ("unit", "width", "height", "grid"),
    [(16, 16, 16, (1, 1)), (16, 17, 16, (1, 2)), (64, 1, 1, (1, 1)), (64, 640, 352, (6, 10)), (32, 33, 71, (3, 2))],
)
def test_a_grid_has_the_units_that_straddle_the_edge(unit, width, height, grid):
    assert InputForm(unit).grid(width, height) == grid


@pytest.mark.parametrize(
    ("unit", "sizes"),
    [(16, ()), (16, (32,)), (16, (8, 16)), (16, (16, 16)), (32, (64, 32)), (64, (16, 64))],
)
def test_levels_that_do_not_fit_their_unit_or_each_other_are_refused(unit, sizes):
    with pytest.raises(ValueError, match="largest nodes down"):
        Task("x", InputForm(unit), tuple(map(level_of, sizes)))


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "nodes", "logits", "probabilities"),
    [
        (BLOCKS, 1, 14, 10),
        (BLOCKS_IN_CONTEXT, 1, 14, 10),
        (TOY, 1 + 4, 5 * 14, 50),
        (SUPERBLOCK, 85, 21 * 14 + 64 * 6, 21 * 10 + 64 * 4),
        (FLAT_TASK, 1, 10, 10),
    ],
)
def test_how_many_of_everything(task, nodes, logits, probabilities):
    assert (task.nodes, task.logits, task.probabilities) == (nodes, logits, probabilities)
    assert task.one_node == (nodes == 1)


def test_names_tell_levels_apart_where_there_are_several_nodes():
    assert BLOCKS.output_names == ("logits", "probability", "partition")
    assert TOY.output_names == (
        *("logits_32", "logits_16", "probability_32", "probability_16"),
        *("partition_32", "partition_16"),
    )
    assert [SUPERBLOCK.suffix(level) for level in SUPERBLOCK.levels] == ["_64", "_32", "_16", "_8"]
    assert SUPERBLOCK.level(8) == level_of(8)
    with pytest.raises(KeyError):
        BLOCKS.level(32)


@pytest.mark.parametrize("task", [BLOCKS, TOY, SUPERBLOCK])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_views_hold_level_after_level_and_node_after_node(task, library):
    values = np.arange(3 * task.logits).reshape(3, -1)
    if library == "torch":
        import torch

        values = torch.from_numpy(values)
    parts = task.split_logits(values)
    assert list(parts) == [level.node_size for level in task.levels]
    for n in range(3):
        at = n * task.logits
        for level in task.levels:
            for node in range(task.nodes_of(level)):
                assert parts[level.node_size][n, node].tolist() == list(range(at, at + level.logits))
                at += level.logits
    probability = np.arange(2 * task.probabilities).reshape(2, -1)
    shapes = {size: part.shape for size, part in task.split_probability(probability).items()}
    assert shapes == {level.node_size: (2, task.nodes_of(level), len(level.types)) for level in task.levels}
    ends = [part.stop for part in task.node_slices().values()]
    assert ends == list(np.cumsum([task.nodes_of(level) for level in task.levels])) and ends[-1] == task.nodes


@pytest.mark.parametrize("task", [BLOCKS, TOY, SUPERBLOCK, Task("few", InputForm(32), (FEW,))])
def test_probabilities_and_likeliest_types_of_each_node(task):
    logits = np.random.default_rng(3).normal(0, 3, (20, task.logits)).astype(np.float32)
    probability = task.probability(logits)
    assert probability.shape == (20, task.probabilities)
    likeliest, at = task.likeliest(probability), 0
    assert likeliest.dtype == np.uint8 and likeliest.shape == (20, task.nodes)
    node = column = 0
    for level in task.levels:
        for _ in range(task.nodes_of(level)):
            for n in range(20):
                expected = slow_probability(level, logits[n, at : at + level.logits])
                found = probability[n, column : column + len(level.types)]
                assert np.allclose(found, expected, rtol=1e-6)
                assert likeliest[n, node] == level.types[int(np.argmax(expected))]
            at, node, column = at + level.logits, node + 1, column + len(level.types)


def test_ids_are_those_of_the_drawings():
    level = level_of(8)
    assert [int(p) for p in level.types] == [NONE, HORZ, VERT, SPLIT]
