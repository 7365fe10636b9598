"""Which convolutions to lower: a cost model of one layer as a convolution and as a product."""

from __future__ import annotations

from torch import nn

from export.dense import Shape
from export.lower import Choose


def chooser(lower: str, precision: str) -> Choose:
    """The decision for `--lower`."""

    def choose(conv: nn.Conv2d, shape: Shape, out_shape: Shape) -> bool:
        return lower != "conv"

    return choose
