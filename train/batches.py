"""Training batches: all blocks stay on the device, an epoch is a list of indices, flips happen on the device too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import BlockSet
from partition import FLIP_LEFT_RIGHT, FLIP_UP_DOWN, TRANSPOSE, Partition
from train.quantiser import scaled_qindex

CONTRAST_OCTAVES = 0.7
"""A contrast is drawn from this many octaves down to this many up."""
QINDEX_SEEN = (40, 248)
"""The range that a scaled qindex stays in: outside, too few labels say what a qindex looks like."""
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0


@dataclass(frozen=True)
class Batch:
    """One batch on the device: blocks [N, S, S] integer, or float32 after "contrast", qindex int64 [N], label int64 [N]
    (0-9 or 255).

    Where blocks are mixed of two, `other` is the second one's label, and `share` the first one's weight, 0-1.
    `soft` holds teachers' probabilities, float32 [N, 10].
    """

    blocks: Tensor
    qindex: Tensor
    label: Tensor
    other: Tensor | None = None
    share: float = 1.0
    soft: Tensor | None = None


class DeviceBlocks:
    """A BlockSet on a device.

    Attributes:
        blocks: [B, S, S], uint8 or int32; S is 16, or 32 for blocks with a border of 8.
        block, qindex, label: int64 [M]; see BlockSet.
        bit_depth: of the samples.
        soft: teachers' probabilities of each pair, float32 [M, 10], or None.
    """

    soft: Tensor | None = None

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
        soft = None if self.soft is None else self.soft[indices]
        return Batch(self.blocks[self.block[indices]], self.qindex[indices], self.label[indices], soft=soft)

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


def middle(blocks: Tensor, side: int) -> Tensor:
    """The middle of each block: [N, side, side] of [N, S, S]."""
    margin = (blocks.shape[-1] - side) // 2
    inner = slice(margin, margin + side)
    return blocks[:, inner, inner]


_LABEL_TABLES = {"left-right": FLIP_LEFT_RIGHT, "up-down": FLIP_UP_DOWN, "transpose": TRANSPOSE}
SYMMETRIES = tuple(
    tuple(name for name, taken in zip(_LABEL_TABLES, bits, strict=True) if taken)
    for bits in product((False, True), repeat=len(_LABEL_TABLES))
)
"""The eight symmetries of the square, each as the names to give to `flip` one after another."""


def flip(batch: Batch, name: str) -> Batch:
    """The batch mirrored ("left-right", "up-down") or transposed ("transpose"), labels and `soft` permuted to match."""
    blocks = {
        "left-right": lambda b: b.flip(2),
        "up-down": lambda b: b.flip(1),
        "transpose": lambda b: b.transpose(1, 2),
    }[name](batch.blocks)
    table = _label_table(name, batch.label.device)
    # Each is its own inverse.
    soft = None if batch.soft is None else batch.soft[:, table[: len(Partition)]]
    return Batch(blocks, batch.qindex, table[batch.label], soft=soft)


@cache
def _label_table(name: str, device: torch.device) -> Tensor:
    """Kept on the device: copying it there for each batch would make a GPU wait."""
    return torch.from_numpy(_LABEL_TABLES[name].astype(np.int64)).to(device)


def augment(batch: Batch, augmentation: str, generator: torch.Generator) -> Batch:
    """A batch as training sees it; every draw but those of "contrast" is for the whole batch.

    "contrast" comes on top of flips too: half the blocks get light and dark swapped, which an encoder hardly minds, and
    half another contrast together with the qindex whose quantiser step is as much larger or smaller: distortion and
    the price of a bit grow alike, so the best partition stays.
    "flips" is one of the eight symmetries of the square; "mixup" (Zhang et al., ICLR 2018) and "cutmix" (Yun et al.,
    ICCV 2019) come on top of it, with weights from Beta(0.2, 0.2) and Beta(1, 1); "none" gives the batch back.
    Blocks may have a border for all but "cutmix", whose weights are shares of a whole block's area.
    """
    if augmentation == "none":
        return batch
    draws = torch.rand(3, generator=generator)
    for draw, name in zip(draws, _LABEL_TABLES, strict=True):
        if draw < 0.5:
            batch = flip(batch, name)
    if augmentation == "flips":
        return batch
    if augmentation == "contrast":
        return _contrast(batch)
    partner = torch.randperm(len(batch.label), generator=generator).to(batch.label.device)
    return _mix(batch, partner, generator) if augmentation == "mixup" else _cut(batch, partner, generator)


def _contrast(batch: Batch) -> Batch:
    """Blocks as float32 [N, S, S], below 0 too: the model subtracts their mean, and no value is clipped or rounded.

    Draws come from the device's own generator, which each epoch seeds, as dropout's do.
    """
    draws = torch.rand(3, len(batch.label), device=batch.label.device)
    octaves = torch.where(draws[1] < 0.5, (2.0 * draws[2] - 1.0) * CONTRAST_OCTAVES, 0.0)
    qindex, ratio = scaled_qindex(batch.qindex, torch.exp2(octaves), *QINDEX_SEEN)
    changed = octaves != 0.0
    factor = torch.where(changed, ratio, 1.0) * torch.where(draws[0] < 0.5, -1.0, 1.0)
    blocks = batch.blocks.float() * factor[:, None, None]
    return replace(batch, blocks=blocks, qindex=torch.where(changed, qindex, batch.qindex))


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw from Beta(alpha, alpha) that the torch generator alone decides."""
    seed = int(torch.randint(1 << 62, (1,), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _mix(batch: Batch, partner: Tensor, generator: torch.Generator) -> Batch:
    """Samples and qindex of two pairs in one proportion, rounded to integers as the model reads them."""
    share = _beta(MIXUP_ALPHA, generator)

    def mixed(values: Tensor) -> Tensor:
        return torch.lerp(values[partner].float(), values.float(), share).round().to(values.dtype)

    soft = _mixed_soft(batch, partner, share)
    return Batch(mixed(batch.blocks), mixed(batch.qindex), batch.label, batch.label[partner], share, soft)


def _mixed_soft(batch: Batch, partner: Tensor, share: float) -> Tensor | None:
    return None if batch.soft is None else torch.lerp(batch.soft[partner], batch.soft, share)


def _cut(batch: Batch, partner: Tensor, generator: torch.Generator) -> Batch:
    """A rectangle of each block replaced by its partner's; qindex stays, the labels count by area."""
    size = batch.blocks.shape[-1]
    side = round(size * (1.0 - _beta(CUTMIX_ALPHA, generator)) ** 0.5)
    top, left = (int(v) for v in torch.randint(size - side + 1, (2,), generator=generator))
    blocks = batch.blocks.clone()
    blocks[:, top : top + side, left : left + side] = batch.blocks[partner, top : top + side, left : left + side]
    share = 1.0 - side * side / (size * size)
    return Batch(blocks, batch.qindex, batch.label, batch.label[partner], share, _mixed_soft(batch, partner, share))
