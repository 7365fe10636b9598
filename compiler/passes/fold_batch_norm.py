"""Fold eval-mode BatchNorm, and the adapters' alpha and depthwise scales, into the convolutions around them.

    BN(conv(x)) = g (W x - mean) / sqrt(var + eps) + b = (s W) x + (b - s mean),   s = g / sqrt(var + eps)

Everything is computed in float64 and rounded to float32 once. Exact but for that rounding: folding changes no map.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.freeze import FrozenBatchNorm2d, batch_norms
from train.layers import ConvAdapter, ConvBN
from train.model import PartitionModel


class FoldedAdapter(nn.Module):
    """A ConvAdapter after folding; alpha is in `up`, and on a 1x1 map the depthwise scale is too.

    x [N, C, H, W] ─┬─► down ─► ReLU ─► (depthwise ─► ReLU) ─► up ─► + ─►
                    └────────────────────────────────────────────────┘
    """

    def __init__(self, down: nn.Conv2d, depthwise: nn.Conv2d | None, up: nn.Conv2d) -> None:
        super().__init__()
        self.down, self.depthwise, self.up = down, depthwise, up

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, C, H, W]; same shape."""
        inner = F.relu(self.down(x))
        if self.depthwise is not None:
            inner = F.relu(self.depthwise(inner))
        return x + self.up(inner)


def convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution with the geometry of `like` and these weights, rounded to its dtype.

    Args:
        like: gives stride, padding and groups.
        weight: [out, in / groups, kh, kw], any float.
        bias: [out] or None.
    """
    out_channels, _, height, width = weight.shape
    conv = nn.Conv2d(like.in_channels, out_channels, (height, width), groups=like.groups, bias=bias is not None)
    conv.stride, conv.padding = like.stride, like.padding
    conv.weight.data = weight.to(like.weight.dtype)
    if conv.bias is not None and bias is not None:
        conv.bias.data = bias.to(like.weight.dtype)
    return conv.requires_grad_(False)


def fold_conv_bn(pair: ConvBN) -> nn.Conv2d:
    """The one convolution that computes what a ConvBN computes in eval mode.

    Raises:
        ValueError: if its BatchNorm is in train mode, or is none.
    """
    bn, conv = pair.bn, pair.conv
    if not isinstance(bn, nn.BatchNorm2d | FrozenBatchNorm2d):
        raise ValueError(f"ConvBN holds a {type(bn).__name__}, no BatchNorm to fold")
    if isinstance(bn, nn.BatchNorm2d) and bn.training:
        raise ValueError("BatchNorm is in train mode, where it normalises by the batch: call .eval() first")
    mean, var = bn.running_mean, bn.running_var
    if mean is None or var is None:
        raise ValueError("BatchNorm keeps no running statistics: there is nothing fixed to fold")
    scale = bn.weight.double() / torch.sqrt(var.double() + bn.eps)
    weight = conv.weight.double() * scale[:, None, None, None]
    return convolution(conv, weight, bn.bias.double() - scale * mean.double())


def fold_adapter(adapter: ConvAdapter, map_size: int) -> FoldedAdapter:
    """Fold an adapter's BN and alpha and, on a 1x1 map, its depthwise convolution.

    On a 1x1 map a padded 3x3 depthwise kernel is a scale d, its centre. Its input z is at least 0, behind a ReLU, so
    relu(d z) = max(d, 0) z, and max(d, 0) goes into the columns of `up`.

    Args:
        adapter: in eval mode.
        map_size: side of the maps it works on.
    """
    down = fold_conv_bn(adapter.down)
    weight = adapter.up.weight.double() * adapter.alpha.double()[:, None, None, None]
    if map_size > 1:
        return FoldedAdapter(down, adapter.depthwise, convolution(adapter.up, weight, None))
    centre = adapter.depthwise.weight.double()[:, 0, 1, 1].clamp_min(0)
    return FoldedAdapter(down, None, convolution(adapter.up, weight * centre[None, :, None, None], None))


@torch.no_grad()
def fold_model(model: PartitionModel) -> PartitionModel:
    """A copy of the model without any BatchNorm, in eval mode.

    Raises:
        ValueError: if the model, or any BatchNorm in it, is in train mode, or if a BatchNorm stands behind no
            convolution and so would be left over.
    """
    if any(m.training for m in model.modules()):
        raise ValueError("the model is in train mode: call .eval() before folding")
    folded = copy.deepcopy(model)
    sizes = model.adapter_map_sizes()
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvAdapter):
                index = [id(a) for a in folded.adapters].index(id(child))
                setattr(parent, name, fold_adapter(child, sizes[index]))
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvBN):
                setattr(parent, name, fold_conv_bn(child))
    if left := batch_norms(folded):
        raise ValueError(f"BatchNorm left after folding: {', '.join(left)}")
    return folded.eval()
