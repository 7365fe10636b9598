"""train/stages.py: what follows from a task's hierarchy, and what a run may be made of."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from description import BLOCKS, NO_SAY, Head, InputForm, Level, Task, level_of
from partition import COVERED, OUTSIDE, Partition
from tests.train.small_tree import FLAT_TREE, LOPSIDED, SMALL_TREE
from train.config import TrainConfig
from train.measures.judgement import all_heads
from train.model import ModelConfig
from train.stages import STAGES, selection, stage_targets, stages_of, stages_of_run

SUPERBLOCK = Task("superblock", InputForm(64), tuple(map(level_of, (64, 32, 16, 8))))
TWO_DEEP = Task(
    "two deep",
    InputForm(16),
    (
        Level(
            16,
            (Partition.NONE, Partition.HORZ, Partition.VERT),
            (Head("any", ("NONE", "RECT")), Head("which", ("HORZ", "VERT"), ("any", "RECT"))),
        ),
    ),
)


def test_the_blocks_stages_train_the_heads_they_always_did():
    assert [stage.keys(BLOCKS) for stage in STAGES] == [("stage1",), ("macro",), ("rect", "ab", "four")]


def test_heads_of_each_level_are_named_by_its_node_size():
    first, second, third = (stage.keys(SUPERBLOCK) for stage in STAGES)
    assert first == ("stage1_64", "stage1_32", "stage1_16", "stage1_8")
    assert second == ("macro_64", "macro_32", "macro_16", "macro_8")
    assert third == (*(f"{head}_{size}" for size in (64, 32, 16) for head in ("rect", "ab", "four")), "rect_8")
    assert set(first + second + third) == {
        head.name + SUPERBLOCK.suffix(level) for level in SUPERBLOCK.levels for head in level.heads
    }


@pytest.mark.parametrize(("task", "numbers"), [(BLOCKS, (1, 2, 3)), (FLAT_TREE, (1,)), (TWO_DEEP, (1, 2))])
def test_a_hierarchy_has_as_many_stages_as_it_is_deep(task, numbers):
    assert tuple(stage.number for stage in stages_of(task)) == numbers


@pytest.mark.parametrize(
    ("task", "runs"),
    [
        (BLOCKS, [(1,), (2,), (3,), (2, 3), (1, 2, 3)]),
        (FLAT_TREE, [(1,)]),
        (TWO_DEEP, [(1,), (2,), (1, 2)]),
    ],
)
def test_a_run_is_of_one_stage_or_of_all_from_one_on(task, runs):
    for asked in [p for n in (0, 1, 2, 3) for p in permutations((1, 2, 3, 4), n)]:
        if asked in runs:
            assert tuple(stage.number for stage in stages_of_run(asked, task)) == asked
        else:
            with pytest.raises(ValueError, match="cannot be trained in one run"):
                stages_of_run(asked, task)


def test_what_a_stage_keeps_of_an_earlier_run_is_what_earlier_stages_trained():
    first, second, third = (stage.kept(BLOCKS) for stage in STAGES)
    assert first == ()
    assert set(second) == {"trunk.", "embedding.", "heads.stage1."}
    assert set(third) == {"trunk.", "embedding.", "heads.stage1.", "adapters.", "heads.macro."}
    assert "heads.macro_8." in STAGES[2].kept(SMALL_TREE) and "heads.rect_16." not in STAGES[2].kept(SMALL_TREE)


def test_every_part_is_trained_once_and_frozen_ever_after():
    trained = [part for stage in STAGES for part in stage.trains]
    assert sorted(trained) == ["adapters", "embedding", "trunk"]
    for stage in STAGES:
        earlier = [part for other in STAGES if other.number < stage.number for part in other.trains]
        assert set(stage.frozen) == set(earlier)
        assert set(stage.idle) == set(trained) - set(stage.frozen) - set(stage.trains)


# --- sampling ---------------------------------------------------------------------------------------------------------


def slow_targets(stage, label, task):
    """Pair by pair: the classes of all nodes, and the one that is rarest in the whole set."""
    numbers, sizes = {}, [level for level in task.levels for _ in range(task.nodes_of(level))]
    for head in stage.heads(task):
        for of in head.head.classes:
            numbers[head.key, of] = len(numbers)
    found = []
    for row in label:
        classes = []
        for value, level in zip(row.tolist(), sizes, strict=True):
            partition = Partition.NONE if value == COVERED else value
            if value == OUTSIDE or partition not in level.types:
                continue
            own = None
            for head in stage.heads(task):
                for of in head.head.classes if head.level is level else ():
                    if partition in level.members(head.head.name, of):
                        own = numbers[head.key, of]
            classes += [own] if own is not None else []
        found.append(classes)
    counts = np.bincount([c for classes in found for c in classes], minlength=len(numbers))
    rarest = [min((counts[c] for c in classes), default=None) for classes in found]
    return found, counts, rarest


@pytest.mark.parametrize("task", [SMALL_TREE, FLAT_TREE, SUPERBLOCK])
@pytest.mark.parametrize("stage", STAGES)
def test_a_pair_of_several_nodes_is_of_its_rarest_class(task, stage):
    rng = np.random.default_rng(0)
    label = rng.choice([0, 0, 0, 1, 2, 3, COVERED, COVERED, COVERED, OUTSIDE], (300, task.nodes)).astype(np.uint8)
    large = [size >= 16 for level in task.levels for size in [level.node_size] * task.nodes_of(level)]
    label = np.where(rng.random(label.shape) < 0.02 * np.array(large), 7, label)
    label[:5] = OUTSIDE
    found = stage_targets(stage, label, task)
    classes, counts, rarest = slow_targets(stage, label, task)
    assert found.dtype == np.int64 and (found[:5] == NO_SAY).all()
    for target, own, least in zip(found, classes, rarest, strict=True):
        if not own:
            assert target == NO_SAY
        else:
            assert target in own and counts[target] == least


def test_a_pair_is_usable_if_any_of_its_nodes_is():
    label = np.array([[COVERED, 0, 0, 0, 0], [3, 0, OUTSIDE, 0, 1], [0, 0, 0, 0, 0], [OUTSIDE] * 5], np.uint8)
    assert (stage_targets(STAGES[1], label, SMALL_TREE) != NO_SAY).tolist() == [False, True, False, False]
    assert (stage_targets(STAGES[0], label, SMALL_TREE) != NO_SAY).tolist() == [True, True, True, False]


def test_the_epoch_is_chosen_by_the_mean_over_the_stages_heads_of_all_levels():
    rng = np.random.default_rng(1)
    label = rng.choice([0, 1, 2, 3, COVERED, OUTSIDE], (200, 5)).astype(np.uint8)
    heads = all_heads(rng.normal(0, 2, (200, SMALL_TREE.logits)).astype(np.float32), label, SMALL_TREE)
    assert set(heads) == {k for stage in STAGES for k in stage.keys(SMALL_TREE)}
    found = selection(STAGES[1], SMALL_TREE, heads)
    assert found["val_loss"] == pytest.approx((heads["macro_16"]["log_loss"] + heads["macro_8"]["log_loss"]) / 2)
    assert found["val_macro_f1"] == pytest.approx((heads["macro_16"]["macro_f1"] + heads["macro_8"]["macro_f1"]) / 2)


# --- what settings fit a task -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", ["mixup", "cutmix"])
def test_blocks_of_several_nodes_are_not_mixed(small_tree, augmentation):
    with pytest.raises(ValueError, match="mixed trees are none"):
        TrainConfig(ModelConfig(small_tree, task=SMALL_TREE), augmentation=augmentation)


def test_types_without_their_mirror_images_are_not_flipped(small_tree):
    model = ModelConfig(small_tree, task=LOPSIDED)
    for changes in ({}, {"augmentation": "contrast"}, {"augmentation": "none", "distillation": 0.5}):
        with pytest.raises(ValueError, match="mirror images"):
            TrainConfig(model, **changes)
    assert TrainConfig(model, augmentation="none").model is model


def test_a_flat_task_refuses_stages_that_it_has_not(small_tree):
    model = ModelConfig(small_tree, task=FLAT_TREE)
    with pytest.raises(ValueError, match="the task has 1"):
        TrainConfig(model)
    assert TrainConfig(model, stages=(1,)).stages == (1,)


def test_settings_of_a_task_come_back_from_json(small_tree):
    config = TrainConfig(ModelConfig(small_tree, task=SMALL_TREE), covered_weight=0.25)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert replace(config, covered_weight=1.0) != config
