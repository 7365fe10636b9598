"""The layers that trunks, adapters and heads are made of. Convolution and BatchNorm stand together in one module,
`ConvBN`, so that the fold in compiler/ never has to guess which BatchNorm belongs to which convolution."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBN(nn.Module):
    """A bias-free convolution and its BatchNorm.

        x [N, in, H, W] ─► conv ─► bn ─► [N, out, H / stride, W / stride]

    After folding `bn` is `nn.Identity` and `conv` has a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, in, H, W]."""
        return self.bn(self.conv(x))


class BasicBlock(nn.Module):
    """Residual block (He et al., CVPR 2016): two convolutions around a shortcut, which is projected where
    stride or width change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        pad = kernel // 2
        self.first = ConvBN(in_channels, out_channels, kernel, stride, pad)
        self.second = ConvBN(out_channels, out_channels, kernel, 1, pad)
        plain = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if plain else ConvBN(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, in, H, W]; returns [N, out, H / stride, W / stride]."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018): channel means, two bias-free linear layers, a gate."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // reduction, bias=False)
        self.expand = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, C, H, W]; same shape."""
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class SpatialAttention(nn.Module):
    """CBAM's spatial gate (Woo et al., ECCV 2018): channel mean and maximum, a 7x7 convolution, a sigmoid."""

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, C, H, W]; same shape."""
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv(summary))


class _AdapterWeights(nn.Module):
    """1x1 down with BN, 3x3 depthwise, 1x1 up, alpha; convolutions start at 0.01 of Kaiming's scale, so that training
    starts from the trunk's own features."""

    def __init__(self, in_channels: int, out_channels: int, reduction: int) -> None:
        super().__init__()
        inner = in_channels // reduction
        self.down = ConvBN(in_channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.up = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.alpha = nn.Parameter(torch.ones(out_channels))
        for conv in (self.down.conv, self.depthwise, self.up):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            conv.weight.data *= 0.01


class ConvAdapter(_AdapterWeights):
    """Conv-Adapter (Chen et al., CVPR Workshops 2024), in series with what it adapts.

    x [N, C, H, W] ─┬─► 1x1 C→C/reduction, BN, ReLU ─► 3x3 depthwise, ReLU ─► 1x1 →C ─► x alpha ─► + ─►
                    └──────────────────────────────────────────────────────────────────────────────┘
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__(channels, channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, C, H, W]; same shape."""
        return x + self.up(F.relu(self.depthwise(F.relu(self.down(x))))) * self.alpha[:, None, None]


class LowRankAdapter(nn.Module):
    """A low-rank linear map added in series: before a layer with weights W it is W (1 + U D), the low-rank update of
    W that LoRA trains (Hu et al., ICLR 2022).

        x [N, C, H, W] ─┬─► 1x1 C→C/reduction ─► 1x1 →C ─► + ─►
                        └────────────────────────────────────┘

    `up` starts at zero, so that training starts from the trunk's own features.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.up = nn.Conv2d(channels // reduction, channels, 1, bias=False)
        nn.init.kaiming_normal_(self.down.weight, mode="fan_out", nonlinearity="linear")
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, C, H, W]; same shape."""
        return x + self.up(self.down(x))


class ParallelAdapter(_AdapterWeights):
    """Conv-Adapter beside the tail of the trunk rather than within it: the tail is computed once for all stages.

        body [N, A, h, w] ─┬─► tail ───────────────────────────────────────────────────────────────────► + ─► [N, B, ..]
                           └─► 1x1 A→A/reduction, BN, ReLU ─► 3x3 depthwise, ReLU ─► mean ─► 1x1 →B ─► x alpha

    Its output is one value a channel, added at every position.
    """

    def forward(self, body: Tensor) -> Tensor:
        """body float32 [N, A, h, w]; returns [N, B, 1, 1]."""
        inner = F.relu(self.depthwise(F.relu(self.down(body)))).mean((2, 3))
        return self.up(inner[:, :, None, None]) * self.alpha[:, None, None]


class Head(nn.Sequential):
    """Linear layers with ReLU and dropout between them: features float32 [N, D] to logits float32 [N, classes]."""

    def __init__(self, widths: tuple[int, ...], dropout: float) -> None:
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU(), nn.Dropout(dropout)] if i else []
            layers.append(nn.Linear(a, b))
        super().__init__(*layers)


class QindexEmbedding(nn.Module):
    """What the rest of the model sees of the quantiser: qindex integer [N], 0-255, to float32 [N, width]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(1, width)
        self.second = nn.Linear(width, width)
        # ReLU knees spread evenly over the range, so that the first layer starts as a piecewise-linear basis.
        with torch.no_grad():
            self.first.weight.fill_(2.0)
            self.first.bias.copy_(-2.0 * torch.linspace(-0.2, 0.95, width))

    def forward(self, qindex: Tensor) -> Tensor:
        """qindex integer [N]."""
        position = qindex.to(self.first.weight.dtype)[:, None] * (1.0 / 255.0)
        return F.relu(self.second(F.relu(self.first(position))))


class Film(nn.Module):
    """Feature-wise linear modulation (Perez et al., AAAI 2018) of a map by the qindex embedding.

    Starts as the identity.
    """

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x float32 [N, C, H, W], embedding float32 [N, E]; returns the shape of x."""
        channels = x.shape[1]
        both = self.linear(embedding)[:, :, None, None]
        # Slices, not chunk(): that exports as a sequence, which TensorRT does not take.
        scale, shift = both[:, :channels], both[:, channels:]
        return x * (1.0 + scale) + shift
