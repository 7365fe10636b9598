"""The default trunk: made for 16x16 blocks and for lowering to matrix products."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from description import InputForm
from train.backbones.trunk import PooledTrunk
from train.layers import BasicBlock, ConvBN, Film


class CompactTrunk(PooledTrunk):
    """The default: made for 16x16 blocks and for lowering to matrix products.

        [1,16,16] ─► minus its mean ─► 8x8/4 ─► [64,4,4] ─► 1 block ─► 2x2/2 ─► [160,2,2] ─► 2 blocks
                  ─► 2x2/2 ─► [320,1,1] ─► 2 blocks of 1x1

    Kernel and map sizes are such that few products are lost when a layer becomes one dense matrix: a 3x3 on a 2x2
    map uses every pair of positions, and at 1x1 a convolution is a matrix anyway. The block's mean says next to
    nothing about its partition; without it the whole range is left to texture.
    """

    adapter_channels = (160, 320)
    features = (320,)
    head_dropout = (0.1, 0.1)
    maps: ClassVar[tuple[tuple[int, int], ...]] = ((64, 1), (160, 2), (320, 2))
    """Channels and blocks at 4x4, 2x2 and 1x1."""

    def __init__(self, embedding: int, form: InputForm) -> None:
        super().__init__(embedding, form)
        (a, at_4x4), (b, at_2x2), (c, at_1x1) = self.maps
        self.stem = ConvBN(form.channels, a, 8, 4, 2)
        self.stage1 = nn.Sequential(*(BasicBlock(a, a) for _ in range(at_4x4)))
        self.merge1 = ConvBN(a, b, 2, 2)
        self.stage2 = nn.Sequential(*(BasicBlock(b, b) for _ in range(at_2x2)))
        self.merge2 = ConvBN(b, c, 2, 2)
        self.stage3 = nn.Sequential(*(BasicBlock(c, c, kernel=1) for _ in range(at_1x1)))
        self.films = nn.ModuleList(Film(embedding, w) for w in (a, b, c)) if embedding else nn.ModuleList()

    def body(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """As Trunk.body: [N, adapter_channels[0], 2, 2]."""
        x = self.stem(self._minus_mean(x))
        x = self.stage1(F.relu(self._film(0, x, embedding)))
        return self.stage2(F.relu(self._film(1, self.merge1(x), embedding)))

    def tail(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """As Trunk.tail: [N, adapter_channels[1], 1, 1]."""
        return self.stage3(F.relu(self._film(2, self.merge2(x), embedding)))


TRUNK = CompactTrunk
