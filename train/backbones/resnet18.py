"""The seed's trunk."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from description import InputForm
from train.backbones.trunk import PooledTrunk
from train.layers import BasicBlock, ConvBN, Film, SpatialAttention, SqueezeExcite


class ResNet18Trunk(PooledTrunk):
    """ResNet-18 with SE and spatial attention, as docs/SEED_SYSTEM.md of the research system has it.

    [1,16,16] ─► 7x7/2, max pool ─► [64,4,4] ─► layer1 ─► layer2 [128,2,2] ─► layer3 [256,1,1] ─► layer4 [512,1,1]
    """

    adapter_channels = (256, 512)
    features = (512,)
    head_dropout = (0.3, 0.4)

    def __init__(self, embedding: int, form: InputForm) -> None:
        super().__init__(embedding, form)
        self.stem = ConvBN(form.channels, 64, 7, 2, 3)
        widths = (64, 64, 128, 256, 512)
        for i, (a, b) in enumerate(itertools.pairwise(widths), 1):
            setattr(self, f"layer{i}", nn.Sequential(BasicBlock(a, b, 1 if i == 1 else 2), BasicBlock(b, b)))
            setattr(self, f"se{i}", SqueezeExcite(b))
        self.attention = SpatialAttention()
        self.films = nn.ModuleList(Film(embedding, c) for c in widths[:4]) if embedding else nn.ModuleList()

    def body(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """As Trunk.body: [N, 256, 1, 1]."""
        x = self._film(0, self.stem(x), embedding)
        x = F.max_pool2d(F.relu(x), 3, 2, 1)
        for i in (1, 2, 3):
            x = self.get_submodule(f"se{i}")(self.get_submodule(f"layer{i}")(x))
            x = self._film(i, x, embedding)
        return x

    def tail(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """As Trunk.tail: [N, 512, 1, 1]."""
        return self.get_submodule("se4")(self.get_submodule("layer4")(x))

    def pool(self, x: Tensor) -> Tensor:
        """As Trunk.pool: [N, 512]."""
        return self.attention(x).mean((2, 3))


TRUNK = ResNet18Trunk
