"""Distillation (Hinton et al., 2015): what teachers say of nodes, split by the chain rule into targets of each head.

teachers ─► P(type) of each node ─┬─► stage 1: P(NONE), 1 - P(NONE)
  x 8 views                       ├─► macro:   P(RECT | partitioned), ...
                                  └─► RECT:    P(HORZ | RECT), ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from description import Level
from progress import Progress
from train.batches import SYMMETRIES, Batch, DeviceBlocks, flip, middle
from train.model import PartitionModel, probabilities

ASKED_AT_ONCE = {"cpu": 1024, "cuda": 16384}


@torch.no_grad()
def taught(teachers: Sequence[PartitionModel], data: DeviceBlocks, autocast: bool, progress: Progress) -> Tensor:
    """What teachers say of each pair, asked once before training: float32 [M, task.probabilities].

    The mean over the teachers and over the square's eight symmetries, which is likelier to be right than any one of
    them. A teacher may see more than its student, who then learns what of it the block itself tells (privileged
    information, Lopez-Paz et al., ICLR 2016), or less.

    Args:
        teachers: finished models, one at least, of the data's unit and levels.
        data: the pairs, with the widest border among the teachers'.
        autocast: compute in bfloat16.
        progress: told of every batch.
    """
    device, size = data.device, ASKED_AT_ONCE[data.device.type]
    order = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    total = torch.zeros(len(data), data.task.probabilities, device=device)
    for number, teacher in enumerate(teachers):
        model = teacher.eval().to(device).to(memory_format=order)  # type: ignore[call-overload]
        for i, batch in enumerate(data.in_order(size)):
            progress(number * len(data) + i * size, len(teachers) * len(data), f"asking teacher {number + 1}")
            total[i * size : i * size + len(batch.label)] += _eight_views(model, batch, data.bit_depth, autocast)
    return total / len(teachers)


def _eight_views(model: PartitionModel, batch: Batch, bit_depth: int, autocast: bool) -> Tensor:
    device, task = batch.label.device.type, model.config.task
    said = replace(batch, blocks=middle(batch.blocks, model.config.form.side))
    total = torch.zeros(len(batch.label), task.probabilities, device=batch.label.device)
    for names in SYMMETRIES:
        view = said
        for name in names:
            view = flip(view, name, task)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            logits = model(view.blocks, view.qindex, bit_depth)
        view = replace(view, soft=probabilities(logits.float(), task))
        for name in reversed(names):
            view = flip(view, name, task)
        assert view.soft is not None
        total += view.soft
    return total / len(SYMMETRIES)


def class_members(head: str, level: Level) -> Tensor:
    """Which of a level's types each class of a head is made of: float32 [types, classes], 0 or 1."""
    target = torch.from_numpy(level.targets[head][list(level.types)])
    return F.one_hot(target + 1, len(level.head(head).classes) + 1)[:, 1:].float()


def head_shares(probability: Tensor, members: Tensor) -> Tensor:
    """Probability of each class of a head, given that it is one of them.

    Args:
        probability: of a level's nodes, float [N, types].
        members: from class_members.

    Returns:
        float [N, classes], rows sum to 1.
    """
    shares = probability @ members
    return shares / shares.sum(1, keepdim=True).clamp_min(1e-12)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against probabilities, float [N].

    Args:
        logits, target: float [N, classes].
    """
    return -(target * logits.log_softmax(1)).sum(1)
