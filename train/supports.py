"""Whether labels hold what stages need, known before any epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from description import NO_SAY, Task
from errors import InputError
from train.pairs import RunPairs
from train.stages import Stage, stage_targets


def check_pairs(stage: Stage, task: Task, label: NDArray[np.integer], split: str, least: int) -> None:
    """Refuse labels that a stage has too few pairs of.

    Args:
        stage: that is to be trained.
        task: of the model.
        label: of all pairs, integer [M, task.nodes].
        split: a name for them.
        least: pairs that are needed; to learn from, two for each process, since BatchNorm needs two values.

    Raises:
        InputError: naming the heads and classes that never occur.
    """
    usable = int((stage_targets(stage, label, task) != NO_SAY).sum())
    if usable < least:
        missing = "; ".join(lacking(stage, task, label)) or "too few of all classes"
        raise InputError(
            f"stage {stage.number} has {usable} pairs in split '{split}' and needs {least}: no {missing}",
            "it needs pictures that an encoder cut into these types; --stage 1 alone does with fewer",
        )


def check_run(stages: Sequence[Stage], task: Task, pairs: RunPairs, least: int) -> list[str]:
    """Refuse labels by which not all stages of a run can be trained and judged.

    Args:
        stages: of the run.
        task: of the model.
        pairs: of the run.
        least: pairs to learn from that each stage needs.

    Returns:
        For each stage that lacks classes to learn which, in words.

    Raises:
        InputError: as check_pairs.
    """
    train, judge = (data.label.cpu().numpy() for data in (pairs.train, pairs.judge))
    notes = []
    for stage in stages:
        check_pairs(stage, task, train, "train", least)
        check_pairs(stage, task, judge, "val" if pairs.calib is None else "train, pictures set aside", 1)
        if missing := lacking(stage, task, train):
            notes.append(f"stage {stage.number} has nothing to learn these from in split 'train': {'; '.join(missing)}")
    return notes


def lacking(stage: Stage, task: Task, label: NDArray[np.integer]) -> list[str]:
    """Classes of a stage's heads that no node has, such as "HORZ_4, VERT_4 (head four)"."""
    found, nodes = [], task.node_slices()
    for head in stage.heads(task):
        target = head.targets[label[:, nodes[head.level.node_size]]]
        count = np.bincount(target[target != NO_SAY], minlength=len(head.head.classes))
        if missing := [of for of, n in zip(head.head.classes, count, strict=True) if not n]:
            found.append(f"{', '.join(missing)} (head {head.key})")
    return found
