"""Put the scaling of the input in front of a network over rows, so that it takes blocks again."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from description import InputForm
from train.model import luma_channels


class RowsScaledModel(nn.Module):
    """A lowered model with its input scaling in front; the same forward as PartitionModel's.

    blocks ─► units of 8-bit samples ─► row for each block ─► core ─► logits float [N, task.logits]

    A row holds the luma as a trunk sees it (train.model.luma_channels), channel after channel.
    """

    scale_to_8_bit: Tensor

    def __init__(self, core: nn.Module, dtype: torch.dtype, form: InputForm) -> None:
        super().__init__()
        self.core, self.dtype, self.form = core.to(dtype), dtype, form
        self.width = math.prod(luma_shape(form))
        # By bit depth; in float32 whatever the core computes in, since 12-bit samples do not fit float16.
        scale = [255.0 / ((1 << depth) - 1) if depth else 1.0 for depth in range(13)]
        self.register_buffer("scale_to_8_bit", torch.tensor(scale), persistent=False)

    def forward(self, blocks: Tensor, qindex: Tensor, bit_depth: int | Tensor = 8) -> Tensor:
        """Logits; arguments as PartitionModel.body."""
        # TensorRT lets a uint8 tensor meet nothing but a cast, so the blocks are cast before they are reshaped.
        if isinstance(bit_depth, Tensor):
            samples = blocks.float() * self.scale_to_8_bit.index_select(0, bit_depth.reshape(1))
        elif bit_depth != 8:
            samples = blocks.float() * self.scale_to_8_bit[bit_depth]
        else:
            samples = blocks
        samples = samples.to(self.dtype)
        # Exact in float16 too: means of four 8-bit samples are quarters below 256.
        rows = samples if self.form.channels == 1 else luma_channels(samples, self.form)
        return self.core(rows.reshape(-1, self.width), qindex)


def luma_shape(form: InputForm) -> tuple[int, int, int]:
    """Channels, height and width of a block's luma as a trunk sees it."""
    _, *shape = luma_channels(torch.zeros(1, form.side, form.side), form).shape
    channels, height, width = shape
    return channels, height, width
