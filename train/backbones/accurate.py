"""The trunk for where a block may cost five times as much."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from description import InputForm
from train.backbones.trunk import PooledTrunk
from train.layers import BasicBlock, ConvBN, Film


class AccurateTrunk(PooledTrunk):
    """For where a block may cost five times as much: the same pyramid, from 8x8 down and wider.

        [1,16,16] ─► minus its mean ─► 4x4/2 ─► [64,8,8] ─► 2 blocks ─► 2x2/2 ─► [128,4,4] ─► 3 blocks
                  ─► 2x2/2 ─► [176,2,2] ─► 2 blocks ─► 2x2/2 ─► [352,1,1] ─► 2 blocks of 1x1

    Most of the work is at 8x8 and 4x4, where a block has positions left and weights are few.
    """

    adapter_channels = (176, 352)
    features = (352,)
    head_dropout = (0.1, 0.1)
    maps = ((64, 2, 3), (128, 3, 3), (176, 2, 3), (352, 2, 1))
    """Channels, blocks and kernel at 8x8, 4x4, 2x2 and 1x1."""

    def __init__(self, embedding: int, form: InputForm) -> None:
        super().__init__(embedding, form)
        widths = [width for width, _, _ in self.maps]
        self.merges = nn.ModuleList([ConvBN(form.channels, widths[0], 4, 2, 1)])
        self.merges.extend(ConvBN(a, b, 2, 2) for a, b in itertools.pairwise(widths))
        self.stages = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, kernel=kernel) for _ in range(blocks)))
            for width, blocks, kernel in self.maps
        )
        self.films = nn.ModuleList(Film(embedding, w) for w in widths) if embedding else nn.ModuleList()

    def body(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """As Trunk.body: [N, 176, 2, 2]."""
        x = self._minus_mean(x)
        for i in range(3):
            x = self._stage(i, x, embedding)
        return x

    def tail(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """As Trunk.tail: [N, 352, 1, 1]."""
        return self._stage(3, x, embedding)

    def _stage(self, i: int, x: Tensor, embedding: Tensor | None) -> Tensor:
        return self.stages[i](F.relu(self._film(i, self.merges[i](x), embedding)))


TRUNK = AccurateTrunk
