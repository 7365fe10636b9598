"""Pictures of partitions on the frame they belong to: what the encoder chose beside what the model predicts."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from partition import COVERED, NODE_SIZE, PARTITION_NAMES, Partition, partition_rectangles

_COLOURS = dict(
    zip(
        Partition,
        ("", "#4daf4a", "#377eb8", "#e41a1c", "#a6d854", "#66c2a5", "#80b1d3", "#8da0cb", "#ffd92f", "#ff7f00"),
        strict=True,
    )
)


def partition_lines(nodes: NDArray[np.uint8], partition: Partition) -> list[list[tuple[float, float]]]:
    """The edges inside every node of one type, as segments of (x, y) in luma samples.

    Args:
        nodes: partition ids or COVERED, uint8 [rows, cols].
        partition: the type to draw.
    """
    cuts = set()
    for top, left, height, width in partition_rectangles(partition, NODE_SIZE):
        if top:
            cuts.add(((left, top), (left + width, top)))
        if left:
            cuts.add(((left, top), (left, top + height)))
    corners = np.argwhere(nodes == partition) * NODE_SIZE
    return [[(x + a, y + b), (x + c, y + d)] for y, x in corners for (a, b), (c, d) in sorted(cuts)]


def draw_partitions(axis: Axes, luma: NDArray[np.integer], nodes: NDArray[np.uint8], title: str) -> None:
    """Draw a frame and the partition of its 16x16 nodes; covered positions are shaded.

    Args:
        axis: where to draw.
        luma: [H, W].
        nodes: partition ids or COVERED, uint8 [rows, cols], from the top left corner.
        title: above the picture.
    """
    height, width = luma.shape
    axis.imshow(luma, cmap="gray", extent=(0, width, height, 0), interpolation="nearest")
    shade = np.zeros((*nodes.shape, 4))
    shade[nodes == COVERED] = (0.0, 0.0, 0.0, 0.45)
    axis.imshow(shade, extent=(0, nodes.shape[1] * NODE_SIZE, nodes.shape[0] * NODE_SIZE, 0), interpolation="nearest")
    for partition in Partition:
        if partition is not Partition.NONE:
            axis.add_collection(
                LineCollection(partition_lines(nodes, partition), colors=_COLOURS[partition], linewidths=0.8)
            )
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.set_title(title, fontsize=10, parse_math=False)


def drawable(text: str) -> str:
    """Text with a question mark for each character that matplotlib's font has no shape for, of which it would warn."""
    font = get_font(findfont(FontProperties()))
    return "".join(char if font.get_char_index(ord(char)) else "?" for char in text)


def draw_comparison(
    luma: NDArray[np.integer], true: NDArray[np.uint8], predicted: NDArray[np.uint8], title: str
) -> Figure:
    """The encoder's partitions and the model's, side by side.

    Args:
        luma: [H, W].
        true, predicted: partition ids (true: or COVERED), uint8 [rows, cols].
        title: names picture and qindex.
    """
    height, width = luma.shape
    figure = Figure(figsize=(14, 7 * height / width + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    right_of = np.where(true == COVERED, Partition.NONE, true) == predicted
    draw_partitions(left, luma, true, "libaom's choice (dark: covered by a larger block)")
    draw_partitions(right, luma, predicted, f"predicted, likeliest type: {100 * right_of.mean():.0f} % agree")
    lines = [Line2D([], [], color=_COLOURS[p], label=PARTITION_NAMES[p]) for p in Partition if p]
    figure.legend(handles=lines, loc="outside lower center", ncols=9, fontsize=8)
    # A name may hold dollar signs, which are no formula, and letters that the font lacks.
    figure.suptitle(drawable(title), fontsize=11, parse_math=False)
    return figure
