"""The trunks. Each splits where the first adapter stands, so that stages 2 and 3 share all that comes before it:

    blocks ─► body ─┬───────────► tail ───────────► pool ─► features of stage 1            [N, features]
                    └► adapter ─► tail ─► adapter ─► pool ─► features of stages 2 and 3    [N, features]

`adapter_channels` are the widths at the two adapters. `embedding` is qindex, float32 [N, E], or None.
Luma has one channel, the block; or two with a border: the block, and all of the bordered block at half its resolution.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from train.layers import BasicBlock, ConvBN, Film, SpatialAttention, SqueezeExcite


class Trunk(nn.Module):
    """What model.py needs of a trunk."""

    adapter_channels: ClassVar[tuple[int, int]]
    features: ClassVar[int]
    head_dropout: ClassVar[tuple[float, float]]
    films: nn.ModuleList

    def __init__(self, embedding: int = 0, luma: int = 1) -> None:
        """`embedding` is the width of the qindex embedding, 0 without; `luma` the channels that `body` is given."""
        del embedding
        super().__init__()
        self.luma = luma

    def body(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """From scaled luma float32 [N, 1 or 2, 16, 16], 0-1, to the first adapter's [N, adapter_channels[0], h, w]."""
        raise NotImplementedError

    def tail(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """From the first adapter's map to the second's, [N, adapter_channels[1], h, w]."""
        raise NotImplementedError

    def pool(self, x: Tensor) -> Tensor:
        """From the second adapter's map to features float32 [N, features]."""
        return x.mean((2, 3))

    def _film(self, i: int, x: Tensor, embedding: Tensor | None) -> Tensor:
        return x if embedding is None else self.films[i](x, embedding)

    def _minus_mean(self, x: Tensor) -> Tensor:
        """Every channel of the luma minus the mean of the first one, which is the block itself."""
        # A single channel is taken as it is: a slice of all of it would be an operation of the exported graph.
        return x - (x if self.luma == 1 else x[:, :1]).mean((2, 3), keepdim=True)


class ResNet18Trunk(Trunk):
    """ResNet-18 with SE and spatial attention, as docs/SEED_SYSTEM.md of the research system has it.

    [1,16,16] ─► 7x7/2, max pool ─► [64,4,4] ─► layer1 ─► layer2 [128,2,2] ─► layer3 [256,1,1] ─► layer4 [512,1,1]
    """

    adapter_channels = (256, 512)
    features = 512
    head_dropout = (0.3, 0.4)

    def __init__(self, embedding: int, luma: int = 1) -> None:
        super().__init__(embedding, luma)
        self.stem = ConvBN(luma, 64, 7, 2, 3)
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


class CompactTrunk(Trunk):
    """The default: made for 16x16 blocks and for lowering to matrix products.

        [1,16,16] ─► minus its mean ─► 8x8/4 ─► [64,4,4] ─► 1 block ─► 2x2/2 ─► [160,2,2] ─► 2 blocks
                  ─► 2x2/2 ─► [320,1,1] ─► 2 blocks of 1x1

    Kernel and map sizes are such that few products are lost when a layer becomes one dense matrix: a 3x3 on a 2x2
    map uses every pair of positions, and at 1x1 a convolution is a matrix anyway. The block's mean says next to
    nothing about its partition; without it the whole range is left to texture.
    """

    adapter_channels = (160, 320)
    features = 320
    head_dropout = (0.1, 0.1)
    maps: ClassVar[tuple[tuple[int, int], ...]] = ((64, 1), (160, 2), (320, 2))
    """Channels and blocks at 4x4, 2x2 and 1x1."""

    def __init__(self, embedding: int, luma: int = 1) -> None:
        super().__init__(embedding, luma)
        (a, at_4x4), (b, at_2x2), (c, at_1x1) = self.maps
        self.stem = ConvBN(luma, a, 8, 4, 2)
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


class TinyTrunk(CompactTrunk):
    """For fast presets, where predicting must cost next to nothing: compact at half its width, one block a map."""

    adapter_channels = (80, 160)
    features = 160
    maps = ((32, 1), (80, 1), (160, 1))


class AccurateTrunk(Trunk):
    """For where a block may cost five times as much: the same pyramid, from 8x8 down and wider.

        [1,16,16] ─► minus its mean ─► 4x4/2 ─► [64,8,8] ─► 2 blocks ─► 2x2/2 ─► [128,4,4] ─► 3 blocks
                  ─► 2x2/2 ─► [176,2,2] ─► 2 blocks ─► 2x2/2 ─► [352,1,1] ─► 2 blocks of 1x1

    Most of the work is at 8x8 and 4x4, where a block has positions left and weights are few.
    """

    adapter_channels = (176, 352)
    features = 352
    head_dropout = (0.1, 0.1)
    maps = ((64, 2, 3), (128, 3, 3), (176, 2, 3), (352, 2, 1))
    """Channels, blocks and kernel at 8x8, 4x4, 2x2 and 1x1."""

    def __init__(self, embedding: int, luma: int = 1) -> None:
        super().__init__(embedding, luma)
        widths = [width for width, _, _ in self.maps]
        self.merges = nn.ModuleList([ConvBN(luma, widths[0], 4, 2, 1)])
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


TRUNKS: dict[str, type[Trunk]] = {
    "tiny": TinyTrunk,
    "compact": CompactTrunk,
    "accurate": AccurateTrunk,
    "resnet18": ResNet18Trunk,
}
