"""How a stage's heads answer while they are trained, counted where the batches are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from description import NO_SAY
from train.stage_net import StageNet


class HeadCounts:
    """Confusion matrices of a stage's heads, on the device: a step never waits for the CPU."""

    def __init__(self, net: StageNet, device: torch.device) -> None:
        self._net = net
        self._classes = {head.key: len(head.head.classes) for head in net.stage.heads(net.model.config.task)}
        # One place more, for the nodes that a head has no say in.
        self._counts = {h: torch.zeros(n**2 + 1, dtype=torch.int64, device=device) for h, n in self._classes.items()}

    def add(self, logits: dict[str, Tensor], label: Tensor) -> None:
        """logits by head, float [N * nodes, classes]; label int64 [N, task.nodes], 0-9, COVERED or OUTSIDE."""
        for head, counts in self._counts.items():
            target, classes = self._net.targets(head, label), self._classes[head]
            place = target * classes + logits[head].detach().argmax(1)
            place = torch.where(target != NO_SAY, place, classes * classes)
            counts.scatter_add_(0, place, torch.ones_like(place))

    def matrices(self) -> dict[str, NDArray[np.int64]]:
        """By head, int64 [classes, classes], rows the true class."""
        return {h: c[:-1].reshape(self._classes[h], -1).cpu().numpy() for h, c in self._counts.items()}
