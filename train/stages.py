"""The three stages as modules that map a batch to its loss, so that DistributedDataParallel can wrap them.

| stage | trains | on | frozen |
|---|---|---|---|
| 1 | trunk, qindex embedding, stage 1 head (and the auxiliary ten-class head, dropped afterwards) | all | - |
| 2 | adapters, macro head | partitioned nodes | trunk, qindex embedding, stage 1 head |
| 3 | RECT, AB and FOUR heads | nodes of those classes | everything else |
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from partition import COVERED, HEADS, Partition, head_targets
from train.batches import Batch, DeviceBlocks
from train.config import TrainConfig
from train.distill import class_members, head_shares, soft_cross_entropy
from train.freeze import freeze
from train.losses import Loss, make_loss
from train.measures.metrics import as_none
from train.model import PartitionModel

STAGE_HEADS = {1: ("stage1",), 2: ("macro",), 3: ("rect", "ab", "four")}


def stage_targets(stage: int, label: NDArray[np.integer]) -> NDArray[np.int64]:
    """Class of every pair in a stage, for sampling: int64 [M], -1 where the stage leaves the pair out.

    Stage 1: NONE / PARTITIONED; stage 2: macro-class; stage 3: the eight partition types that its heads tell apart.

    Args:
        stage: 1, 2 or 3.
        label: 0-9 or COVERED (which counts as NONE), integer [M].
    """
    plain = as_none(label)
    if stage < 3:
        return head_targets()[STAGE_HEADS[stage][0]][plain]
    targets = head_targets()
    index = np.where(np.any([targets[h] >= 0 for h in STAGE_HEADS[3]], axis=0), np.arange(len(Partition)), -1)
    return index[plain]


class StageNet(nn.Module):
    """One stage's view of the model: forward gives the batch's mean loss, and only what it trains takes gradients."""

    def __init__(self, model: PartitionModel, stage: int, config: TrainConfig, label: NDArray[np.integer]) -> None:
        super().__init__()
        self.model, self.stage = model, stage
        plain = as_none(label)
        self._losses: dict[str, Loss] = {}
        for head in STAGE_HEADS[stage]:
            target = head_targets()[head][plain]
            counts = np.bincount(target[target >= 0], minlength=len(HEADS[head]))
            self._losses[head] = make_loss(config.loss, counts, config.focal_gamma)
            table = torch.from_numpy(head_targets()[head])
            # COVERED is 255: a table of 256 rows turns any label into a class without a branch.
            rows = torch.full((256,), int(table[Partition.NONE]))
            rows[: len(Partition)] = table
            self.register_buffer(f"target_{head}", rows, persistent=False)
            self.register_buffer(f"members_{head}", class_members(head), persistent=False)
        self.auxiliary: nn.Linear | None = None
        if stage == 1 and config.stage1_loss == "joint":
            self.auxiliary = nn.Linear(model.trunk.features, len(Partition))
            counts = np.bincount(plain, minlength=len(Partition))
            self._auxiliary_loss = make_loss(config.loss, counts, config.focal_gamma)
        self._distillation = config.distillation
        self._full = config.fine_tuning == "full"
        self._freeze(config.bn_mode)

    def _freeze(self, bn_mode: str) -> None:
        model = self.model
        if self.stage >= 2 and not self._full:
            freeze(model.trunk, bn_mode)
            if model.embedding is not None:
                freeze(model.embedding)
        if self.stage == 3:
            freeze(model.adapters, bn_mode)
        for name, head in model.heads.items():
            head.requires_grad_(name in STAGE_HEADS[self.stage])
        if self.stage == 1:
            model.adapters.requires_grad_(False)

    def train(self, mode: bool = True) -> StageNet:
        """As nn.Module.train; heads that this stage does not train, and unused adapters, stay in eval mode."""
        super().train(mode)
        for name, head in self.model.heads.items():
            head.train(mode and name in STAGE_HEADS[self.stage])
        if self.stage == 1:
            self.model.adapters.eval()
        return self

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, object]]:
        """Two groups for AdamW: the trunk at its own rate, everything else that trains."""
        trunk = [p for p in self.model.trunk.parameters() if p.requires_grad]
        ids = {id(p) for p in trunk}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in ids]
        groups: list[dict[str, object]] = [{"params": rest, "lr": config.lr}]
        return [*groups, {"params": trunk, "lr": config.trunk_lr}] if trunk else groups

    def forward(self, batch: Batch, bit_depth: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss (scalar) and, by head, the logits float32 [N, classes]."""
        features = self._features(batch, bit_depth)
        # Under autocast, heads give bfloat16: losses are computed in float32.
        logits = {head: self.model.heads[head](features).float() for head in STAGE_HEADS[self.stage]}
        ten = None if self.auxiliary is None else self.auxiliary(features).float()
        total = torch.zeros((), device=features.device)
        for head, z in logits.items():
            total = total + self._mixed(batch, partial(self._head_loss, head, z))
        if ten is not None:
            total = total + self._mixed(batch, partial(self._ten_loss, ten))
        if batch.soft is not None:
            total = torch.lerp(total, self._distillation_loss(batch, logits, ten), self._distillation)
        return total, logits

    def auxiliary_logits(self, batch: Batch, bit_depth: int) -> Tensor:
        """What the auxiliary head of stage 1 says, float32 [N, 10]."""
        assert self.auxiliary is not None
        return self.auxiliary(self._features(batch, bit_depth)).float()

    def _distillation_loss(self, batch: Batch, logits: dict[str, Tensor], ten: Tensor | None) -> Tensor:
        """As the loss of the labels, with a teacher's probabilities in their place, on the same pairs."""
        assert batch.soft is not None
        total = torch.zeros((), device=batch.soft.device)
        for head, z in logits.items():
            has_say = self._mixed(batch, partial(self._has_say, head))
            target = head_shares(batch.soft, self.get_buffer(f"members_{head}"))
            total = total + (soft_cross_entropy(z, target) * has_say).sum() / has_say.sum().clamp_min(1)
        return total if ten is None else total + soft_cross_entropy(ten, batch.soft).mean()

    def _mixed(self, batch: Batch, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """A loss of the batch's labels; where two blocks were mixed into one, of both in their proportion."""
        if batch.other is None:
            return loss(batch.label)
        return batch.share * loss(batch.label) + (1.0 - batch.share) * loss(batch.other)

    def _has_say(self, head: str, label: Tensor) -> Tensor:
        return (self.get_buffer(f"target_{head}")[label] >= 0).float()

    def _head_loss(self, head: str, logits: Tensor, label: Tensor) -> Tensor:
        target = self.get_buffer(f"target_{head}")[label]
        has_say = target >= 0
        loss = self._losses[head](logits, target.clamp_min(0)) * has_say
        # Divided by the count: a mean over the pairs this head has a say in, and 0, not NaN, where there is none.
        return loss.sum() / has_say.sum().clamp_min(1)

    def _ten_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return self._auxiliary_loss(logits, torch.where(label == COVERED, int(Partition.NONE), label)).mean()

    def _features(self, batch: Batch, bit_depth: int) -> Tensor:
        model = self.model
        if self.stage == 1:
            return model.stage1_features(*model.body(batch.blocks, batch.qindex, bit_depth))
        with torch.set_grad_enabled(self._full and torch.is_grad_enabled()):
            body, embedding = model.body(batch.blocks, batch.qindex, bit_depth)
        with torch.set_grad_enabled(self.stage == 2 and torch.is_grad_enabled()):
            return model.adapted_features(body, embedding)


@torch.no_grad()
def auxiliary_log_loss(net: StageNet, data: DeviceBlocks, batch_size: int) -> float:
    """Ten-class log loss of the auxiliary head, in nats: what stages 2 and 3 have to come up to.

    Args:
        net: of stage 1, in eval mode.
        data: covered counts as NONE.
        batch_size: pairs at once.
    """
    total = 0.0
    for batch in data.in_order(batch_size):
        plain = torch.where(batch.label == COVERED, int(Partition.NONE), batch.label)
        total += float(F.cross_entropy(net.auxiliary_logits(batch, data.bit_depth), plain, reduction="sum"))
    return total / len(data)


def plain_copy(model: PartitionModel) -> PartitionModel:
    """The same weights in a fresh, unfrozen model in eval mode on the CPU: what checkpoints hold and export reads."""
    fresh = PartitionModel(model.config)
    fresh.load_state_dict({name: copy.deepcopy(t).cpu() for name, t in model.state_dict().items()}, strict=True)
    return fresh.eval()
