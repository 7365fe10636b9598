"""The graph that every runtime gets: logits, probability and partition of a batch, in one of two input forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.model import chain_rule


class PredictorGraph(nn.Module):
    """A model (folded or not) as the exported graph (docs/DESIGN.md, Model).

    blocks uint8 [N, S, S], qindex int32 [N]
        ─► logits float32 [N, 14], probability float32 [N, 10], partition int32 [N]

    S is 16, or 32 for blocks with a border of 8.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, blocks: Tensor, qindex: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """blocks uint8 [N, S, S], qindex int32 [N]."""
        return outputs(self.model(blocks, qindex))


class HighBitDepthGraph(PredictorGraph):
    """The same for 10 and 12 bit: blocks int32 [N, S, S], qindex int32 [N], bit_depth int32 scalar (8, 10 or 12)."""

    def forward(self, blocks: Tensor, qindex: Tensor, bit_depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """blocks int32 [N, S, S], qindex int32 [N], bit_depth int32 []."""
        return outputs(self.model(blocks, qindex, bit_depth))


def outputs(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, probability and partition (int32: TensorRT has no other integer output as cheap) of logits [N, 14]."""
    logits = logits.float()
    probability = chain_rule(logits)
    return logits, probability, probability.argmax(1).to(torch.int32)
