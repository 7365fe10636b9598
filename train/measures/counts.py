"""How a stage's heads answer while they are trained, counted where the batches are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partition import HEADS
from train.stages import StageNet


class HeadCounts:
    """Confusion matrices of a stage's heads, on the device: a step never waits for the CPU."""

    def __init__(self, net: StageNet, heads: tuple[str, ...], device: torch.device) -> None:
        self._net = net
        # One place more, for the pairs that a head has no say in.
        self._counts = {h: torch.zeros(len(HEADS[h]) ** 2 + 1, dtype=torch.int64, device=device) for h in heads}

    def add(self, logits: dict[str, Tensor], label: Tensor) -> None:
        """logits by head, float [N, classes]; label int64 [N], 0-9 or COVERED."""
        for head, counts in self._counts.items():
            target, classes = self._net.get_buffer(f"target_{head}")[label], len(HEADS[head])
            place = torch.where(target >= 0, target * classes + logits[head].detach().argmax(1), classes * classes)
            counts.scatter_add_(0, place, torch.ones_like(place))

    def matrices(self) -> dict[str, NDArray[np.int64]]:
        """By head, int64 [classes, classes], rows the true class."""
        return {h: c[:-1].reshape(len(HEADS[h]), -1).cpu().numpy() for h, c in self._counts.items()}
