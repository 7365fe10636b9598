"""The fixed part of a dataset's blocks that experiments train on, cut once and kept as one file for all processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.dataset import BlockSet
from description import BLOCKS
from errors import ArtefactError, InputError
from files import atomic_file
from partition import COVERED, Partition

ARRAYS = ("blocks", "block", "qindex", "label", "picture")


def take(pairs: BlockSet, chosen: NDArray[np.int64]) -> BlockSet:
    """Some of the pairs, with no more blocks than they need.

    Args:
        pairs: of a split.
        chosen: rows, int64 [K].
    """
    used, block = np.unique(pairs.block[chosen], return_inverse=True)
    return replace(
        pairs,
        blocks=pairs.blocks[used],
        block=block.astype(np.int64),
        qindex=pairs.qindex[chosen],
        label=pairs.label[chosen],
        picture=pairs.picture[chosen],
    )


def draw_nodes(pairs: BlockSet, count: int) -> BlockSet:
    """That many nodes (covered positions left out), always the same ones; all of them if there are fewer.

    Raises:
        InputError: if there is no node.
    """
    nodes = np.flatnonzero(pairs.label[:, 0] != COVERED)
    if not len(nodes):
        raise InputError("the dataset has no 16x16 node", "an experiment needs blocks that an encoder split or kept")
    return take(pairs, np.sort(np.random.default_rng(0).permutation(nodes)[:count]))


def partitioned(pairs: BlockSet) -> BlockSet:
    """The pairs that stage 2 has a say in."""
    label = pairs.label[:, 0]
    return take(pairs, np.flatnonzero((label != COVERED) & (label != Partition.NONE)))


def write_pairs(path: Path, train: BlockSet, val: BlockSet) -> None:
    """Both sets into one .npz.

    Raises:
        OutputError: if it cannot be written.
    """
    arrays = {f"{split}_{name}": getattr(p, name) for split, p in (("train", train), ("val", val)) for name in ARRAYS}
    with atomic_file(path) as file:
        np.savez(file, bit_depth=np.array([train.bit_depth, val.bit_depth]), **arrays)


def read_pairs(path: Path) -> tuple[BlockSet, BlockSet]:
    """What write_pairs wrote; the names of pictures are not kept.

    Raises:
        ArtefactError: if the file is missing or corrupt.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            depth = file["bit_depth"]
            train, val = (
                BlockSet(task=BLOCKS, **{n: file[f"{split}_{n}"] for n in ARRAYS}, pictures=(), bit_depth=int(d))
                for split, d in zip(("train", "val"), depth, strict=True)
            )
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}", "delete it: it is made anew") from None
    return train, val
