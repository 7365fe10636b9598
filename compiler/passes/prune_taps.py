"""Cut the kernel taps that only ever meet padding. Exact: what is cut is only ever multiplied by zero.

A 3x3 kernel with padding 1 on a 1x1 map uses its centre alone; with stride 2 on a 2x2 map it uses 4 of its 9 taps:

    . . .        the map is  x x        the taps that meet it       . . .
    . # #        padded by   x x        at the only output          . # #
    . # #        zeros                                              . # #

Which taps live depends on the size of the map that a convolution sees; it is read off one run of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

Size = tuple[int, int]


class ChannelScale(nn.Module):
    """What a depthwise convolution is once a single tap is left of it: a scale and a shift for each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", torch.zeros_like(scale) if shift is None else shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x float [N, C, H, W]; same shape."""
        return x * self.scale[:, None, None] + self.shift[:, None, None]


@torch.no_grad()
def prune_model(model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """A copy of the model whose convolutions hold only taps that meet a pixel.

    Args:
        model: in eval mode; every nn.Conv2d in it always sees the same map size.
        example: arguments of its forward, any batch size.

    Raises:
        ValueError: if the model is in train mode, or a convolution sees maps of several sizes.
    """
    if any(m.training for m in model.modules()):
        raise ValueError("the model is in train mode: call .eval() before pruning")
    pruned = copy.deepcopy(model)
    sizes = map_sizes(pruned, example)
    for parent in list(pruned.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child in sizes:
                setattr(parent, name, prune_convolution(child, sizes[child]))
    return pruned.eval()


def map_sizes(model: nn.Module, example: tuple[Tensor, ...]) -> dict[nn.Module, Size]:
    """Height and width of the map that each nn.Conv2d of a model sees.

    Raises:
        ValueError: if one sees maps of several sizes.
    """
    sizes: dict[nn.Module, Size] = {}

    def record(conv: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        size = (inputs[0].shape[2], inputs[0].shape[3])
        if sizes.setdefault(conv, size) != size:
            raise ValueError(f"one convolution sees maps of {sizes[conv]} and of {size}")

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def prune_convolution(conv: nn.Conv2d, size: Size) -> nn.Module:
    """The same map with the dead taps cut; a depthwise convolution with one tap left becomes a ChannelScale.

    Args:
        conv: with zero padding and no dilation; any other is returned as it is.
        size: height and width of the map it sees.
    """
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or set(conv.dilation) != {1}:
        return conv
    (top, height, pad_y), (left, width, pad_x) = (
        live_taps(size[axis], conv.kernel_size[axis], conv.stride[axis], conv.padding[axis]) for axis in (0, 1)
    )
    weight = conv.weight[:, :, top : top + height, left : left + width].detach().clone()
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if depthwise and weight.shape[2:] == (1, 1) and set(conv.stride) == {1} and not (pad_y or pad_x):
        return ChannelScale(weight[:, 0, 0, 0], conv.bias)
    pruned = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        (conv.stride[0], conv.stride[1]),
        (pad_y, pad_x),
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    pruned.weight = nn.Parameter(weight, requires_grad=False)
    if conv.bias is not None:
        pruned.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    return pruned


def live_taps(size: int, kernel: int, stride: int, padding: int) -> tuple[int, int, int]:
    """Along one axis: first tap to keep, how many, and the padding that then leaves the output as it was.

    The smallest run of taps that holds all live ones and needs only symmetric padding, since that is all nn.Conv2d has.

    Args:
        size: of the map, at least 1.
        kernel, stride, padding: of the convolution; the kernel fits into the padded map.
    """
    outputs = (size + 2 * padding - kernel) // stride + 1
    live = [t for t in range(kernel) if any(0 <= o * stride - padding + t < size for o in range(outputs))]
    first, last = (live[0], live[-1]) if live else (padding, padding)
    for pad, count in _candidates(kernel, padding):
        start = padding - pad
        fits = size + 2 * pad >= count and (size + 2 * pad - count) // stride + 1 == outputs
        if start <= first and start + count > last and fits:
            return start, count, pad
    return 0, kernel, padding


def _candidates(kernel: int, padding: int) -> Iterator[tuple[int, int]]:
    for pad in range(padding + 1):
        for count in range(1, kernel - (padding - pad) + 1):
            yield pad, count
