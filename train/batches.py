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
from description import Task
from partition import FLIP_LEFT_RIGHT, FLIP_UP_DOWN, TRANSPOSE
from train.quantiser import scaled_qindex

CONTRAST_OCTAVES = 0.7
"""A contrast is drawn from this many octaves down to this many up."""
QINDEX_SEEN = (40, 248)
"""The range that a scaled qindex stays in: outside, too few labels say what a qindex looks like."""
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0


@dataclass(frozen=True)
class Batch:
    """One batch on the device.

    Attributes:
        blocks: [N, S, S], integer, or float32 after "contrast".
        qindex: int64 [N].
        label: of each node, int64 [N, task.nodes]: 0-9, COVERED or OUTSIDE.
        other: where blocks are mixed of two, the second one's label.
        share: the first one's weight then, 0-1.
        soft: teachers' probabilities, float32 [N, task.probabilities].
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
        task: whose blocks and nodes these are.
        blocks: [B, S, S], uint8 or int32; S is the side of the task's input form.
        block, qindex: int64 [M]; see BlockSet.
        label: uint8 [M, task.nodes]; see BlockSet.
        bit_depth: of the samples.
        soft: teachers' probabilities of each pair, float32 [M, task.probabilities], or None.
    """

    soft: Tensor | None = None

    def __init__(self, blocks: BlockSet, device: torch.device) -> None:
        self.task = blocks.task
        samples = blocks.blocks if blocks.blocks.dtype == np.uint8 else blocks.blocks.astype(np.int32)
        self.blocks = torch.from_numpy(samples).to(device)
        self.block = torch.from_numpy(blocks.block).to(device)
        self.qindex = torch.from_numpy(blocks.qindex.astype(np.int64)).to(device)
        self.label = torch.from_numpy(blocks.label).to(device)
        self.bit_depth = blocks.bit_depth
        self.device = device

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor) -> Batch:
        """The pairs at `indices`, int64 [N]."""
        soft = None if self.soft is None else self.soft[indices]
        return Batch(self.blocks[self.block[indices]], self.qindex[indices], self.label[indices].long(), soft=soft)

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


def flip(batch: Batch, name: str, task: Task) -> Batch:
    """The batch mirrored ("left-right", "up-down") or transposed ("transpose"): nodes and their types, in labels and
    `soft`, go where the samples go.

    Args:
        batch: of unmixed blocks.
        name: of the symmetry.
        task: whose blocks they are.
    """
    blocks = {
        "left-right": lambda b: b.flip(2),
        "up-down": lambda b: b.flip(1),
        "transpose": lambda b: b.transpose(1, 2),
    }[name](batch.blocks)
    table, node, column = _moves(name, task, batch.label.device)
    # Each is its own inverse.
    soft = None if batch.soft is None else batch.soft[:, column]
    label = batch.label if task.one_node else batch.label[:, node]
    return Batch(blocks, batch.qindex, table[label], soft=soft)


@cache
def _moves(name: str, task: Task, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Label by label [256]; for each node the node that comes to its place [task.nodes]; for each probability the one
    that comes to its place [task.probabilities]. Kept on the device: copying them for each batch would make a GPU wait.
    """
    table = _LABEL_TABLES[name]
    nodes, columns, node_start, column_start = [], [], 0, 0
    for level in task.levels:
        side = task.input.unit // level.node_size
        grid = np.arange(side * side).reshape(side, side)
        moved = {"left-right": grid[:, ::-1], "up-down": grid[::-1], "transpose": grid.T}[name].ravel()
        type_of = level.columns[table[list(level.types)]]
        nodes.append(node_start + moved)
        columns.append((column_start + moved[:, None] * len(level.types) + type_of).ravel())
        node_start, column_start = node_start + moved.size, column_start + columns[-1].size
    arrays = table.astype(np.int64), np.concatenate(nodes), np.concatenate(columns)
    return tuple(torch.from_numpy(array).to(device) for array in arrays)  # type: ignore[return-value]


def keeps_types(task: Task) -> bool:
    """Whether at each level every symmetry turns each type into one that the level has too."""
    tables = _LABEL_TABLES.values()
    return all(set(table[list(level.types)]) == set(level.types) for level in task.levels for table in tables)


def augment(batch: Batch, task: Task, augmentation: str, generator: torch.Generator) -> Batch:
    """A batch of a task's blocks as training sees it; every draw but those of "contrast" is for the whole batch.

    "contrast" comes on top of flips too: half the blocks get light and dark swapped, which an encoder hardly minds, and
    half another contrast together with the qindex whose quantiser step is as much larger or smaller: distortion and
    the price of a bit grow alike, so the best partition stays.
    "flips" is one of the eight symmetries of the square; "mixup" (Zhang et al., ICLR 2018) and "cutmix" (Yun et al.,
    ICCV 2019) come on top of it, with weights from Beta(0.2, 0.2) and Beta(1, 1); "none" gives the batch back.
    Blocks may have a border for all but "cutmix", whose weights are shares of a whole block's area; and they have one
    node alone where blocks are mixed, since what is mixed of two trees is none.
    """
    if augmentation == "none":
        return batch
    draws = torch.rand(3, generator=generator)
    for draw, name in zip(draws, _LABEL_TABLES, strict=True):
        if draw < 0.5:
            batch = flip(batch, name, task)
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
