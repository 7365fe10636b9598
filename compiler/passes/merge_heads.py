"""The heads as few, larger products.

The four heads of stages 2 and 3 read the same features, so layer by layer they are one product with a block-diagonal
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
    """A PartitionModel behind its input scaling, whose heads on the same features are merged."""

    def __init__(self, model: PartitionModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        names = list(model.heads)
        if names[0] != "stage1":
            raise ValueError("stage 1's head comes first among the logits")
        self.stage1 = self.model.heads["stage1"]
        merged = merge_layers([_layers(model.heads[n]) for n in names[1:]])
        self.rest = nn.Sequential()
        for i, (weight, bias) in enumerate(merged):
            if i:
                self.rest.append(nn.ReLU())
            self.rest.append(_linear(weight, bias))
        del self.model.heads

    def forward(self, luma: Tensor, qindex: Tensor) -> Tensor:
        """Logits float32 [N, 14].

        Args:
            luma: float32 [N, 1 or 2, 16, 16] in units of 8-bit samples, 0-255, as train.model.luma_channels has it.
            qindex: integer [N], 0-255.
        """
        embedding = None if self.model.embedding is None else self.model.embedding(qindex)
        body = self.model.trunk.body(luma * (1.0 / 255.0), embedding)
        stage1 = self.stage1(self.model.stage1_features(body, embedding))
        logits = torch.cat([stage1, self.rest(self.model.adapted_features(body, embedding))], 1)
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
