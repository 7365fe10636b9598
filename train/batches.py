"""Training batches: all blocks stay on the device, an epoch is a list of indices, flips happen on the device too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import BlockSet
from partition import FLIP_LEFT_RIGHT, FLIP_UP_DOWN, TRANSPOSE

AUGMENTATIONS = ("none", "flips")
SAMPLERS = ("natural", "balanced")


@dataclass(frozen=True)
class Batch:
    """One batch on the device: blocks [N, 16, 16] integer, qindex int64 [N], label int64 [N] (0-9 or 255)."""

    blocks: Tensor
    qindex: Tensor
    label: Tensor


class DeviceBlocks:
    """A BlockSet on a device.

    Attributes:
        blocks: [B, 16, 16], uint8 or int32.
        block, qindex, label: int64 [M]; see BlockSet.
        bit_depth: of the samples.
    """

    def __init__(self, blocks: BlockSet, device: torch.device) -> None:
        samples = blocks.blocks if blocks.blocks.dtype == np.uint8 else blocks.blocks.astype(np.int32)
        self.blocks = torch.from_numpy(samples).to(device)
        self.block = torch.from_numpy(blocks.block).to(device)
        self.qindex = torch.from_numpy(blocks.qindex.astype(np.int64)).to(device)
        self.label = torch.from_numpy(blocks.label.astype(np.int64)).to(device)
        self.bit_depth = blocks.bit_depth
        self.device = device

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor) -> Batch:
        """The pairs at `indices`, int64 [N]."""
        return Batch(self.blocks[self.block[indices]], self.qindex[indices], self.label[indices])

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every pair once, in order."""
        for start in range(0, len(self), batch_size):
            yield self.batch(torch.arange(start, min(start + batch_size, len(self)), device=self.device))


def epoch_indices(target: NDArray[np.int64], sampler: str, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """The batches of one epoch, as int64 index tensors [<= batch_size] on the CPU.

    Args:
        target: class of each pair in this stage, int64 [M]; -1 leaves the pair out.
        sampler: "natural" visits every pair once; "balanced" draws classes alike, with replacement.
        batch_size: pairs in a batch; a last batch of one pair alone is dropped (BatchNorm needs two values).
        generator: on the CPU; its state alone decides the order.
    """
    usable = torch.from_numpy(np.flatnonzero(target >= 0))
    if sampler == "natural":
        order = usable[torch.randperm(len(usable), generator=generator)]
    else:
        classes = torch.from_numpy(target)[usable]
        weight = 1.0 / torch.bincount(classes).clamp_min(1).double()
        order = usable[_draw(weight[classes], len(usable), generator)]
    batches = list(order.split(batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def _draw(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices drawn in proportion to weight; torch.multinomial stops at 2^24 entries, this does not."""
    edges = weight.cumsum(0)
    at = torch.rand(count, generator=generator, dtype=torch.float64) * edges[-1]
    return torch.searchsorted(edges, at, right=True).clamp_max(len(weight) - 1)


_LABEL_TABLES = {"left-right": FLIP_LEFT_RIGHT, "up-down": FLIP_UP_DOWN, "transpose": TRANSPOSE}


def flip(batch: Batch, name: str) -> Batch:
    """The batch mirrored ("left-right", "up-down") or transposed ("transpose"), its labels permuted to match."""
    blocks = {
        "left-right": lambda b: b.flip(2),
        "up-down": lambda b: b.flip(1),
        "transpose": lambda b: b.transpose(1, 2),
    }[name](batch.blocks)
    table = torch.from_numpy(_LABEL_TABLES[name].astype(np.int64)).to(batch.label.device)
    return Batch(blocks, batch.qindex, table[batch.label])


def augment(batch: Batch, augmentation: str, generator: torch.Generator) -> Batch:
    """One of the eight symmetries of the square, drawn for the whole batch; "none" gives the batch back."""
    if augmentation == "none":
        return batch
    draws = torch.rand(3, generator=generator)
    for draw, name in zip(draws, _LABEL_TABLES, strict=True):
        if draw < 0.5:
            batch = flip(batch, name)
    return batch
