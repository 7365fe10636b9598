"""The pairs of a run: to train on, to calibrate on, to measure on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from data.dataset import Dataset, joined, load_pictures, load_split
from data.split import calibration_pictures
from description import Task
from errors import InputError
from train.batches import DeviceBlocks


@dataclass(frozen=True)
class RunPairs:
    """All pairs of a run, on its device.

    Attributes:
        train, val: of the dataset's splits; train without the pictures set aside, but with further datasets' pictures.
        calib: of the train pictures set aside, or None.
        calib_pictures: their names.
    """

    train: DeviceBlocks
    val: DeviceBlocks
    calib: DeviceBlocks | None
    calib_pictures: tuple[str, ...]

    @property
    def judge(self) -> DeviceBlocks:
        """What the epoch to keep is chosen on: calib where there is some, so that val only measures."""
        return self.val if self.calib is None else self.calib

    def describe(self) -> str:
        """One line for people."""
        aside = f", {len(self.calib):,} calib" if self.calib is not None else ""
        return f"{len(self.train):,} train{aside} and {len(self.val):,} val pairs of block and qindex"


def load_pairs(
    dataset: Dataset,
    calibration: int,
    device: torch.device,
    task: Task,
    train_border: int = 0,
    more_train: Sequence[Dataset] = (),
) -> RunPairs:
    """Read the splits train and val.

    Args:
        dataset: an opened one.
        calibration: how many train pictures to set aside.
        device: where the pairs are kept.
        task: whose blocks; its border is what the model sees around each.
        train_border: around those of train, if more: what teachers see.
        more_train: further datasets, of which the split train is taken.

    Raises:
        InputError: whatever is wrong with a dataset, or if too few pictures are left to train on.
    """
    train = dataset.of_split("train")
    aside = set(calibration_pictures([p.name for p in train], calibration))
    parts = [tuple(p for p in train if (p.name in aside) == chosen) for chosen in (False, True)]
    wide = with_border(task, max(task.input.border, train_border))
    own = load_pictures(dataset, parts[0], "split 'train'", wide)
    rest = DeviceBlocks(joined([own, *(load_split(more, "train", wide) for more in more_train)]), device)
    calib = DeviceBlocks(load_pictures(dataset, parts[1], "split 'train'", task), device) if parts[1] else None
    val = DeviceBlocks(load_split(dataset, "val", task), device)
    if rest.bit_depth != val.bit_depth or (calib is not None and calib.bit_depth != val.bit_depth):
        raise InputError(f"train is {rest.bit_depth} bit, val {val.bit_depth}", "keep one depth per dataset")
    return RunPairs(rest, val, calib, tuple(p.name for p in parts[1]))


def with_border(task: Task, border: int) -> Task:
    """The task of blocks with that many samples around each."""
    return replace(task, input=replace(task.input, border=border))
