"""Draw what an artefact predicts for one picture of a dataset beside what the encoder chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.cutting import cut_blocks, node_grid
from data.dataset import open_dataset
from data.drawing import draw_comparison
from evaluate.report import open_artefact
from infer.session import SessionOptions
from progress import Announce
from train.curves import save_figure


def write_overlay(artefact: Path, dataset_dir: Path, picture_name: str, output: Path, announce: Announce) -> None:
    """Write the comparison for one picture at the middle one of its qindex.

    Raises:
        InputError: if the dataset has no such picture.
        ToolkitError: whatever is wrong with artefact, dataset or output.
    """
    dataset = open_dataset(dataset_dir)
    (picture,) = dataset.named([picture_name])
    opened = open_artefact(artefact, SessionOptions(picture.bit_depth), announce)
    luma = dataset.luma(picture)
    qindex, labels = dataset.labels(picture)
    middle = len(qindex) // 2
    blocks = cut_blocks(luma, opened.border)
    prediction = opened.session.predict(blocks, np.full(len(blocks), qindex[middle]))
    rows, cols = labels.shape[1:]
    grid = prediction.partition.reshape(node_grid(picture.width, picture.height))[:rows, :cols]
    title = f"{picture.name}, {picture.split} split, qindex {qindex[middle]}, 16x16 nodes"
    save_figure(draw_comparison(luma, labels[middle], grid, title), output)
    announce(f"wrote {output}: {title}")
