"""Look at a dataset: how often each partition occurs, and pictures with their partition trees drawn in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.dataset import Dataset, Picture, class_counts
from description import BLOCKS
from files import atomic_file
from partition import COVERED, MI_SIZE, PARTITION_NAMES, Partition, partition_rectangles, tree_partitions

LEVEL_COLOURS = {
    128: (255, 0, 220),
    64: (255, 70, 70),
    32: (255, 200, 0),
    16: (60, 230, 60),
    8: (70, 170, 255),
}
"""Colour of the lines that the partition of a node draws inside it, by size of the node in luma samples."""

_MOST_QINDEX = 8
_QINDEX_RANGE = 48
_ZOOMS = ((1024, 4), (2048, 2))
_BAR = 30


@dataclass(frozen=True)
class ClassRow:
    """Labels of one split at one qindex, or a range of them.

    Attributes:
        split: train, val or test.
        first, last: smallest and largest qindex counted here.
        covered: 16x16 positions that a larger block covers.
        counts: nodes by partition id, ten numbers.
    """

    split: str
    first: int
    last: int
    covered: int
    counts: tuple[int, ...]

    @property
    def qindex(self) -> str:
        """The qindex, or the range of them."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def class_rows(dataset: Dataset) -> list[ClassRow]:
    """Class counts by split and qindex; by ranges of 48 where a split has more than eight qindex.

    Raises:
        InputError: if a label file is missing or corrupt.
    """
    rows = []
    for split in sorted({p.split for p in dataset.pictures}, key=("train", "val", "test").index):
        histogram: dict[int, NDArray[np.int64]] = {}
        for picture in dataset.of_split(split):
            for qindex, label in zip(*dataset.labels(picture, BLOCKS), strict=True):
                counts = np.append(class_counts(label.ravel()), np.count_nonzero(label == COVERED))
                histogram[int(qindex)] = histogram.get(int(qindex), 0) + counts
        for group in _groups(sorted(histogram)):
            *nodes, covered = (int(n) for n in np.sum([histogram[q] for q in group], 0))
            rows.append(ClassRow(split, group[0], group[-1], covered, tuple(nodes)))
    return rows


def _groups(qindex: list[int]) -> list[list[int]]:
    if len(qindex) <= _MOST_QINDEX:
        return [[q] for q in qindex]
    keys = sorted({q // _QINDEX_RANGE for q in qindex})
    return [[q for q in qindex if q // _QINDEX_RANGE == key] for key in keys]


def class_table(rows: Sequence[ClassRow]) -> str:
    """The rows as a table for people: counts, and the share of the area that is covered."""
    header = ["split", "qindex", "covered", *PARTITION_NAMES, "share covered"]
    lines: list[list[str]] = [header]
    for row in rows:
        share = row.covered / max(row.covered + sum(row.counts), 1)
        lines.append([row.split, row.qindex, str(row.covered), *(str(n) for n in row.counts), f"{100 * share:.1f} %"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def draw_histogram(rows: Sequence[ClassRow]) -> Figure:
    """Share of each partition among the nodes, a group of bars for each qindex, a panel for each split."""
    splits = list(dict.fromkeys(row.split for row in rows))
    figure = Figure(figsize=(11, 3.2 * len(splits)), layout="constrained")
    FigureCanvasAgg(figure)
    for split, axes in zip(splits, np.atleast_1d(figure.subplots(len(splits))), strict=True):
        chosen = [row for row in rows if row.split == split]
        width = 0.8 / len(chosen)
        for i, row in enumerate(chosen):
            nodes = max(sum(row.counts), 1)
            where = np.arange(len(Partition)) + (i - (len(chosen) - 1) / 2) * width
            label = f"qindex {row.qindex}: {nodes} nodes, {row.covered} covered"
            axes.bar(where, [100 * n / nodes for n in row.counts], width, label=label)
        axes.set_xticks(range(len(Partition)), PARTITION_NAMES)
        axes.set_ylabel("% of 16x16 nodes")
        axes.set_title(f"{split}: partitions of 16x16 nodes")
        axes.legend(fontsize="small")
    return figure


def tree_lines(
    bsize: NDArray[np.uint8],
) -> Iterator[tuple[int, int, int, int, int]]:
    """The lines that the partitions of all nodes draw, the largest nodes first; and the edges between 128x128 ones.

    Args:
        bsize: block-size map, uint8 [R, C].

    Yields:
        Size of the node in luma samples, then top, left, bottom, right of a line in mi units; top == bottom or
        left == right. Lines lie between mi units and may reach beyond the frame.
    """
    for size, nodes in tree_partitions(bsize).items():
        side = size // MI_SIZE
        for row, col in np.argwhere(nodes != COVERED):
            top, left = int(row) * side, int(col) * side
            if size == max(LEVEL_COLOURS):
                yield from _root_lines(size, top, left, side)
            for r, c, height, width in partition_rectangles(Partition(int(nodes[row, col])), side):
                if c:
                    yield size, top + r, left + c, top + r + height, left + c
                if r:
                    yield size, top + r, left + c, top + r, left + c + width


def _root_lines(size: int, top: int, left: int, side: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The upper and left edge of a node that has no parent, unless they are the frame's."""
    if left:
        yield size, top, left, top + side, left
    if top:
        yield size, top, left, top, left + side


def draw_overlay(luma: NDArray[np.integer], bit_depth: int, bsize: NDArray[np.uint8], title: str) -> Image.Image:
    """A frame with its partition tree, enlarged (4 times up to 1024 samples wide, then twice, then not).

    Luma sample (y, x) fills the pixels from (30 + zoom y, zoom x) on; a line between two samples is the first pixel
    row or column of the lower or right one. Its colour says which size of node was partitioned there.

    Args:
        luma: samples [H, W], 0 to 2**bit_depth - 1.
        bit_depth: of the samples.
        bsize: block-size map, uint8 [R, C].
        title: what stands above the picture.

    Returns:
        RGB picture: 30 rows of title, the frame, 30 rows of legend.
    """
    zoom = overlay_zoom(luma.shape[1])
    grey = (luma >> (bit_depth - 8)).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
    frame = Image.fromarray(grey).convert("RGB")
    pen = ImageDraw.Draw(frame)
    step = MI_SIZE * zoom
    # Smaller nodes first, so that where two sizes meet in one point the larger shows.
    for size, top, left, bottom, right in sorted(tree_lines(bsize)):
        end = (right * step, bottom * step - 1) if left == right else (right * step - 1, bottom * step)
        pen.line(((left * step, top * step), end), LEVEL_COLOURS[size])
    picture = Image.new("RGB", (max(frame.width, _legend_width()), frame.height + 2 * _BAR), (24, 24, 24))
    picture.paste(frame, (0, _BAR))
    text = ImageDraw.Draw(picture)
    text.text((6, 5), title, (255, 255, 255), _font())
    _draw_legend(text, frame.height + _BAR)
    return picture


def overlay_zoom(width: int) -> int:
    """How many pixels of an overlay one luma sample is wide and high."""
    return next((zoom for most, zoom in _ZOOMS if width <= most), 1)


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(16)


def _legend_entries() -> list[tuple[str, tuple[int, int, int] | None]]:
    # A superblock of 64x64 is no node of 128x128, but its edges look like one (see tree_partitions).
    names = {size: f"{size}x{size}" for size in LEVEL_COLOURS} | {128: "128x128 or superblock"}
    return [("partition of a node of", None), *((names[s], colour) for s, colour in LEVEL_COLOURS.items())]


def _legend_width() -> int:
    return int(sum(_font().getlength(text) + 44 for text, _ in _legend_entries()))


def _draw_legend(pen: ImageDraw.ImageDraw, top: int) -> None:
    x = 6.0
    for text, colour in _legend_entries():
        if colour is not None:
            pen.line(((x, top + 15), (x + 20, top + 15)), colour, 3)
            x += 26
        pen.text((x, top + 5), text, (255, 255, 255), _font())
        x += _font().getlength(text) + 14


def write_overlays(dataset: Dataset, picture: Picture, folder: Path) -> list[Path]:
    """Write one overlay PNG for every qindex of a picture: <name>_q<qindex>.png.

    Raises:
        InputError: if luma or labels are missing or corrupt.
        OutputError: if a file cannot be written.
    """
    luma = dataset.luma(picture)
    paths = []
    for qindex, bsize in zip(*dataset.block_size_maps(picture), strict=True):
        clip, mark, frame = picture.name.rpartition("_f")
        is_frame = bool(mark) and frame.isdigit()
        where = f"{clip}, frame {int(frame)}" if is_frame else f"{picture.name}, frame 0"
        title = f"{where}, qindex {qindex} - {picture.width}x{picture.height}, {picture.split}"
        path = folder / f"{picture.name}_q{qindex:03d}.png"
        with atomic_file(path) as file:
            draw_overlay(luma, picture.bit_depth, bsize, title).save(file, "PNG")
        paths.append(path)
    return paths


def write_histogram(rows: Sequence[ClassRow], path: Path) -> None:
    """Write the class histogram as PNG.

    Raises:
        OutputError: if it cannot be written.
    """
    with atomic_file(path) as file:
        draw_histogram(rows).savefig(file, format="png", dpi=110)


def rows_as_json(rows: Sequence[ClassRow]) -> list[dict[str, object]]:
    """The rows as plain values."""
    return [asdict(row) for row in rows]
