"""The heads as few, larger products.

All heads but the first read the same features, so layer by layer they are one product with a block-diagonal
matrix. A head that is shallower than the deepest passes its logits through as relu(z) - relu(-z) = z, which is exact.

    features ─► Linear to all hidden units ─► ReLU ─► Linear ─► ReLU ─► Linear to all logits
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from train.layers import Head
from train.model import PartitionModel

Layer = tuple[Tensor, Tensor]
"""Weight [out, in] and bias [out]."""


class HeadsMergedModel(nn.Module):
    """A PartitionModel of one node a block behind its input scaling, whose heads on the same features are merged."""

    def __init__(self, model: PartitionModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        (level,) = model.config.task.levels
        first, *others = level.heads
        self.first = self.model.head(first.name, level)
        self.rest = nn.Sequential()
        layers = [_layers(model.head(head.name, level)) for head in others]
        for i, (weight, bias) in enumerate(merge_layers(layers) if layers else ()):
            if i:
                self.rest.append(nn.ReLU())
            self.rest.append(_linear(weight, bias))
        del self.model.heads

    def forward(self, luma: Tensor, qindex: Tensor) -> Tensor:
        """Logits float32 [N, task.logits].

        Args:
            luma: float32 [N, C, h, w] in units of 8-bit samples, 0-255, as train.model.luma_channels has it.
            qindex: integer [N], 0-255.
        """
        embedding = None if self.model.embedding is None else self.model.embedding(qindex)
        body = self.model.trunk.body(luma * (1.0 / 255.0), embedding)
        (bare,) = self.model.stage1_features(body, embedding)
        parts = [self.first(bare)]
        if len(self.rest):
            (adapted,) = self.model.adapted_features(body, embedding)
            parts.append(self.rest(adapted))
        logits = torch.cat(parts, 1)
        return self.model.sharpened(logits, qindex)


def _layers(head: nn.Module) -> list[Layer]:
    assert isinstance(head, Head)
    linear = [m for m in head if isinstance(m, nn.Linear)]
    return [(m.weight.detach(), m.bias.detach()) for m in linear]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return linear


def merge_layers(heads: Sequence[list[Layer]]) -> list[Layer]:
    """One stack of layers, ReLU between them, that computes the logits of all heads side by side.

    Args:
        heads: each a stack of layers with ReLU between them; all read the same features.
    """
    depth = max(len(head) for head in heads)
    deep = [_deepened(head, depth) for head in heads]
    merged = [(torch.cat([h[0][0] for h in deep]), torch.cat([h[0][1] for h in deep]))]
    for i in range(1, depth):
        merged.append((torch.block_diag(*[h[i][0] for h in deep]), torch.cat([h[i][1] for h in deep])))
    return merged


def _deepened(head: list[Layer], depth: int) -> list[Layer]:
    """The same head with `depth` layers: z becomes (z, -z) before a ReLU, and z = relu(z) - relu(-z) after it."""
    head = list(head)
    while len(head) < depth:
        weight, bias = head.pop()
        one = torch.eye(len(bias), dtype=weight.dtype)
        head += [(torch.cat([weight, -weight]), torch.cat([bias, -bias])), (torch.cat([one, -one], 1), 0 * bias)]
    return head
