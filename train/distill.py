"""Distillation (Hinton et al., 2015): a teacher's ten probabilities, split by the chain rule into targets of each head.

teacher ─► P(type) [N, 10] ─┬─► stage 1: P(NONE), 1 - P(NONE)
                            ├─► macro:   P(RECT | partitioned), ...
                            └─► RECT:    P(HORZ | RECT), ...
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from partition import HEADS, head_targets
from train.batches import Batch
from train.model import PartitionModel, chain_rule


class Teacher:
    """A finished model that says how likely each partition of a batch is.

    One that sees blocks with a border may teach one that does not: it then says what can be known of a block at most,
    and the student learns what of it the block itself tells (privileged information, Lopez-Paz et al., ICLR 2016).
    """

    def __init__(self, model: PartitionModel, device: torch.device, autocast: bool) -> None:
        order = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._model = model.eval().requires_grad_(False).to(device).to(memory_format=order)  # type: ignore[call-overload]
        self._device, self._autocast = device, autocast

    @torch.no_grad()
    def __call__(self, batch: Batch, bit_depth: int) -> Tensor:
        """Probability of each partition, float32 [N, 10]; where blocks are mixed, of what the mixture looks like."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            logits = self._model(batch.blocks, batch.qindex, bit_depth)
        return chain_rule(logits.float())


def class_members(head: str) -> Tensor:
    """Which partitions each class of a head is made of: float32 [10, classes], 0 or 1."""
    target = torch.from_numpy(head_targets()[head])
    return F.one_hot(target + 1, len(HEADS[head]) + 1)[:, 1:].float()


def head_shares(probability: Tensor, members: Tensor) -> Tensor:
    """Probability of each class of a head, given that it is one of them.

    Args:
        probability: float [N, 10].
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
