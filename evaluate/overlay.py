"""Draw what an artefact predicts for one picture of a dataset beside what the encoder chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.cutting import cut_blocks, in_frame
from data.dataset import open_dataset
from data.drawing import draw_comparison
from errors import UsageError
from evaluate.report import open_artefact
from infer.session import SessionOptions
from progress import Announce
from train.curves import save_figure


def write_overlay(artefact: Path, dataset_dir: Path, picture_name: str, output: Path, announce: Announce) -> None:
    """Write the comparison for one picture at the middle one of its qindex.

    Raises:
        InputError: if the dataset has no such picture.
        UsageError: if the artefact answers several levels, of which this draws none.
        ToolkitError: whatever is wrong with artefact, dataset or output.
    """
    dataset = open_dataset(dataset_dir)
    (picture,) = dataset.named([picture_name])
    opened = open_artefact(artefact, SessionOptions(picture.bit_depth), announce)
    task = opened.task
    if not task.one_node:
        raise UsageError(f"{artefact} answers nodes of several sizes, and an overlay draws one", "take another model")
    luma = dataset.luma(picture)
    qindex, labels = dataset.labels(picture, task)
    middle = len(qindex) // 2
    blocks = cut_blocks(luma, task.input)
    prediction = opened.session.predict(blocks, np.full(len(blocks), qindex[middle]))
    size = task.input.unit
    rows, cols = picture.height // size, picture.width // size
    grid = in_frame(prediction.partition.reshape(-1, 1, 1), labels.shape[1:3])[:rows, :cols, 0]
    true = labels[middle, :rows, :cols, 0]
    title = f"{picture.name}, {picture.split} split, qindex {qindex[middle]}, {size}x{size} nodes"
    save_figure(draw_comparison(luma, true, grid, title), output)
    announce(f"wrote {output}: {title}")
