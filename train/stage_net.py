"""A stage as a module that maps a batch to its loss, so that DistributedDataParallel can wrap it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from description import NO_SAY
from partition import COVERED
from train.batches import Batch, DeviceBlocks
from train.config import TrainConfig
from train.distill import class_members, head_shares, soft_cross_entropy
from train.freeze import freeze
from train.losses import Loss, make_loss
from train.model import PartitionModel
from train.stages import Stage, by_label

_NEXT_TO_NOTHING = 1e-6


@dataclass(frozen=True)
class _Classifier:
    """What answers for the nodes of a level: a head, or an auxiliary one.

    The buffers target_<key> and weight_<key>, [256], hold the class and the weight of every label.

    Attributes:
        key: its name.
        place: of the level in Task.levels.
        nodes: the level's, among a unit's.
        loss: of one node.
    """

    key: str
    place: int
    nodes: slice
    loss: Loss


class StageNet(nn.Module):
    """One stage's view of the model: forward gives the batch's mean loss, and only what it trains takes gradients.

    Nodes that exist weigh 1, covered ones, which count as NONE, TrainConfig.covered_weight, those outside the frame 0.

    Args:
        model: changed in place: what the stage freezes is frozen.
        stage: which.
        config: of the run.
        label: of all pairs that are trained on, integer [M, task.nodes].
    """

    def __init__(self, model: PartitionModel, stage: Stage, config: TrainConfig, label: NDArray[np.integer]) -> None:
        super().__init__()
        self.model, self.stage = model, stage
        self._config = config
        self._heads: list[_Classifier] = []
        for head in stage.heads(model.config.task):
            classes = len(head.head.classes)
            self._heads.append(self._classifier(head.key, head.place, head.targets, classes, label))
            self.register_buffer(f"members_{head.key}", class_members(head.head.name, head.level), persistent=False)
        self._auxiliary: list[_Classifier] = []
        if stage.auxiliary and config.stage1_loss == "joint":
            self._add_auxiliary(label)
        self._full = config.fine_tuning == "full"
        self._freeze(config.bn_mode)

    def _classifier(
        self, key: str, place: int, targets: NDArray[np.int64], classes: int, label: NDArray[np.integer]
    ) -> _Classifier:
        task = self.model.config.task
        nodes = task.node_slices()[task.levels[place].node_size]
        found = targets[label[:, nodes]]
        loss = make_loss(
            self._config.loss, np.bincount(found[found != NO_SAY], minlength=classes), self._config.focal_gamma
        )
        weight = (targets != NO_SAY).astype(np.float32)
        weight[COVERED] *= self._config.covered_weight
        self.register_buffer(f"target_{key}", torch.from_numpy(targets), persistent=False)
        self.register_buffer(f"weight_{key}", torch.from_numpy(weight), persistent=False)
        return _Classifier(key, place, nodes, loss)

    def _add_auxiliary(self, label: NDArray[np.integer]) -> None:
        """For each level one layer from its nodes' features to all its types."""
        task = self.model.config.task
        for place, (level, features) in enumerate(zip(task.levels, self.model.trunk.features, strict=True)):
            key = "auxiliary" + task.suffix(level)
            self.add_module(key, nn.Linear(features, len(level.types)))
            self._auxiliary.append(self._classifier(key, place, by_label(level.columns), len(level.types), label))

    def _freeze(self, bn_mode: str) -> None:
        model = self.model
        for part in () if self._full else self.stage.frozen:
            module = getattr(model, part)
            if module is not None:
                freeze(module, bn_mode)
        for part in self.stage.idle:
            getattr(model, part).requires_grad_(False)
        mine = self.stage.keys(model.config.task)
        for name, head in model.heads.items():
            head.requires_grad_(name in mine)

    def train(self, mode: bool = True) -> StageNet:
        """As nn.Module.train; heads that this stage does not train, and idle parts, stay in eval mode."""
        super().train(mode)
        mine = self.stage.keys(self.model.config.task)
        for name, head in self.model.heads.items():
            head.train(mode and name in mine)
        for part in self.stage.idle:
            getattr(self.model, part).eval()
        return self

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, object]]:
        """Two groups for AdamW: the trunk at its own rate, everything else that trains."""
        trunk = [p for p in self.model.trunk.parameters() if p.requires_grad]
        ids = {id(p) for p in trunk}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in ids]
        groups: list[dict[str, object]] = [{"params": rest, "lr": config.lr}]
        return [*groups, {"params": trunk, "lr": config.trunk_lr}] if trunk else groups

    def forward(self, batch: Batch, bit_depth: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss (scalar) and, by key of each head, the logits float32 [N * nodes, classes]."""
        features = self._features(batch, bit_depth)
        # Under autocast, heads give bfloat16: losses are computed in float32.
        logits = {head.key: self.model.heads[head.key](features[head.place]).float() for head in self._heads}
        beside = self._auxiliary_logits(features)
        total = torch.zeros((), device=batch.label.device)
        for each in (*self._heads, *self._auxiliary):
            z = logits[each.key] if each.key in logits else beside[each.key]
            total = total + self._mixed(batch, partial(self._loss, each, z))
        if batch.soft is not None:
            total = torch.lerp(total, self._distillation_loss(batch, logits, beside), self._config.distillation)
        return total, logits

    @property
    def joint(self) -> bool:
        """Whether auxiliary heads train beside."""
        return bool(self._auxiliary)

    def auxiliary_logits(self, batch: Batch, bit_depth: int) -> dict[str, Tensor]:
        """What the auxiliary heads say, by key, float32 [N * nodes, types]; empty without any."""
        return self._auxiliary_logits(self._features(batch, bit_depth))

    def _auxiliary_logits(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {each.key: self.get_submodule(each.key)(features[each.place]).float() for each in self._auxiliary}

    def targets(self, key: str, label: Tensor) -> Tensor:
        """Class of each node in a head or auxiliary head, int64 [N * nodes]; NO_SAY where it has none.

        Args:
            key: of the head.
            label: of a batch, int64 [N, task.nodes].
        """
        each = next(c for c in (*self._heads, *self._auxiliary) if c.key == key)
        return self.get_buffer(f"target_{key}")[label[:, each.nodes].reshape(-1)]

    def _weights(self, each: _Classifier, label: Tensor) -> Tensor:
        return self.get_buffer(f"weight_{each.key}")[label[:, each.nodes].reshape(-1)]

    def _distillation_loss(self, batch: Batch, logits: dict[str, Tensor], beside: dict[str, Tensor]) -> Tensor:
        """As the loss of the labels, with a teacher's probabilities in their place, on the same nodes."""
        assert batch.soft is not None
        levels = [p.flatten(0, 1) for p in self.model.config.task.split_probability(batch.soft).values()]
        total = torch.zeros((), device=batch.soft.device)
        for each in self._heads:
            weight = self._mixed(batch, partial(self._weights, each))
            target = head_shares(levels[each.place], self.get_buffer(f"members_{each.key}"))
            total = total + _mean(soft_cross_entropy(logits[each.key], target), weight)
        for each in self._auxiliary:
            own = soft_cross_entropy(beside[each.key], levels[each.place])
            total = total + _mean(own, self._weights(each, batch.label))
        return total

    def _mixed(self, batch: Batch, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """A loss of the batch's labels; where two blocks were mixed into one, of both in their proportion."""
        if batch.other is None:
            return loss(batch.label)
        return batch.share * loss(batch.label) + (1.0 - batch.share) * loss(batch.other)

    def _loss(self, each: _Classifier, logits: Tensor, label: Tensor) -> Tensor:
        target = self.targets(each.key, label)
        return _mean(each.loss(logits, target.clamp_min(0)), self._weights(each, label))

    def _features(self, batch: Batch, bit_depth: int) -> tuple[Tensor, ...]:
        model, stage = self.model, self.stage
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self._full or "trunk" in stage.trains)):
            body, embedding = model.body(batch.blocks, batch.qindex, bit_depth)
            if not stage.adapted:
                return model.stage1_features(body, embedding)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "adapters" in stage.trains):
            return model.adapted_features(body, embedding)


def _mean(loss: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of float [N], a scalar: of the nodes a head has a say in, and 0, not NaN, where there is none."""
    return (loss * weight).sum() / weight.sum().clamp_min(_NEXT_TO_NOTHING)


@torch.no_grad()
def auxiliary_log_loss(net: StageNet, data: DeviceBlocks, batch_size: int) -> dict[str, float]:
    """Log loss of each auxiliary head over all its level's types, in nats: what stages 2 and 3 have to come up to.

    Args:
        net: of stage 1, in eval mode.
        data: covered counts as NONE; nodes outside the frame are left out.
        batch_size: pairs at once.

    Returns:
        By "auxiliary_log_loss" and the level's suffix; empty if there is no such head.
    """
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for batch in data.in_order(batch_size) if net.joint else ():
        for key, logits in net.auxiliary_logits(batch, data.bit_depth).items():
            target = net.targets(key, batch.label)
            loss = F.cross_entropy(logits, target, reduction="sum", ignore_index=NO_SAY)
            total[key] = total.get(key, 0.0) + float(loss)
            count[key] = count.get(key, 0) + int((target != NO_SAY).sum())
    return {key.replace("auxiliary", "auxiliary_log_loss"): total[key] / max(count[key], 1) for key in total}


def plain_copy(model: PartitionModel) -> PartitionModel:
    """The same weights in a fresh, unfrozen model in eval mode on the CPU: what checkpoints hold and export reads."""
    fresh = PartitionModel(model.config)
    fresh.load_state_dict({name: copy.deepcopy(t).cpu() for name, t in model.state_dict().items()}, strict=True)
    return fresh.eval()
