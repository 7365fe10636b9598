"""Trunks drawn at random from all layers that the compiler supports, small enough to compile in a moment."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from description import InputForm
from train.backbones.trunk import PooledTrunk
from train.layers import BasicBlock, ConvBN, Film, SpatialAttention, SqueezeExcite

CHANNELS = (4, 8, 12)


def size_after(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def geometry(draw, size: int, least_stride: int = 1) -> tuple[int, int, int, int]:
    """Kernel, stride and padding that leave something of a map of that size, and the size they leave."""
    kernel = draw(st.integers(1, 7), label="kernel")
    padding = draw(st.integers(max(0, (kernel - size + 1) // 2), kernel // 2 + 1), label="padding")
    stride = draw(st.integers(least_stride, 4), label="stride")
    return kernel, stride, padding, size_after(size, kernel, stride, padding)


def depthwise(channels: int, kernel: int) -> ConvBN:
    pair = ConvBN(channels, channels, kernel, 1, kernel // 2)
    pair.conv = nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels, bias=False)
    return pair


class RandomTrunk(PooledTrunk):
    """A list of steps up to the first adapter, another up to the second: what `draw_trunk` drew."""

    def __init__(self, embedding: int, form: InputForm, steps: list[tuple], tail_at: int) -> None:
        super().__init__(embedding, form)
        self.steps, self.tail_at = steps, tail_at
        self.layers = nn.ModuleList(self._layer(*step) for step in steps)
        widths = [step[1] for step in steps if step[0] == "film"]
        self.films = nn.ModuleList(Film(embedding, c) for c in widths) if embedding else nn.ModuleList()

    def _layer(self, kind: str, *sizes) -> nn.Module:
        if kind == "block":
            a, b, stride, kernel = sizes
            return BasicBlock(a, b, stride, kernel)
        if kind == "conv":
            a, b, kernel, stride, padding = sizes
            return ConvBN(a, b, kernel, stride, padding)
        if kind == "depthwise":
            return depthwise(*sizes)
        return {"se": lambda c: SqueezeExcite(c, 2), "attention": SpatialAttention}.get(kind, nn.Identity)(*sizes)

    def _run(self, x, embedding, first: int, last: int):
        film = sum(step[0] == "film" for step in self.steps[:first])
        for (kind, *sizes), layer in zip(self.steps[first:last], self.layers[first:last], strict=True):
            if kind == "film":
                x = self._film(film, x, embedding)
                film += 1
            elif kind == "relu":
                x = F.relu(x)
            elif kind == "pool":
                x = F.max_pool2d(x, *sizes)
            elif kind == "center":
                x = self._minus_mean(x)
            else:
                x = layer(x)
        return x

    def body(self, x, embedding):
        return self._run(x, embedding, 0, self.tail_at)

    def tail(self, x, embedding):
        return self._run(x, embedding, self.tail_at, len(self.steps))


def draw_steps(draw, luma: int) -> tuple[list[tuple], int, tuple[int, int]]:
    """Steps, where the first adapter stands, and the channels at the two adapters."""
    kernel, stride, padding, size = geometry(draw, 16, 2)
    channels = draw(st.sampled_from(CHANNELS))
    steps: list[tuple] = [("center",)] if draw(st.booleans(), label="center") else []
    steps += [("conv", luma, channels, kernel, stride, padding)]
    steps += [("film", channels)] if draw(st.booleans(), label="film") else []
    steps += [("relu",)] if draw(st.booleans(), label="relu") else []
    at, widths = 0, []
    for last in (False, True):
        for _ in range(draw(st.integers(1, 3))):
            kinds = ["conv", "block", "se", "depthwise", "attention", "film"] + (["pool"] if size > 2 else [])
            kind = draw(st.sampled_from(kinds), label="layer")
            wide = draw(st.sampled_from(CHANNELS))
            if kind == "conv":
                kernel, stride, padding, size = geometry(draw, size)
                steps += [("conv", channels, wide, kernel, stride, padding), ("relu",)]
                channels = wide
            elif kind == "block":
                stride = draw(st.integers(1, 2))
                steps.append(("block", channels, wide, stride, draw(st.sampled_from((1, 3, 5)))))
                channels, size = wide, size_after(size, 1, stride, 0)
            elif kind == "pool":
                steps.append(("pool", 3, 2, 1))
                size = size_after(size, 3, 2, 1)
            elif kind == "attention":
                steps.append(("attention", draw(st.sampled_from((3, 5, 7)))))
            else:
                sizes = {"se": (channels,), "film": (channels,), "depthwise": (channels, 3)}[kind]
                steps.append((kind, *sizes))
        at, widths = at if last else len(steps), [*widths, channels]
    return steps, at, (widths[0], widths[1])


def draw_trunk(draw, luma: int) -> type[PooledTrunk]:
    """A trunk class for that many channels of luma, as train.backbones.TRUNKS loads them."""
    steps, at, widths = draw_steps(draw, luma)

    class Drawn(RandomTrunk):
        adapter_channels = widths
        features = (widths[1],)
        head_dropout = (0.1, 0.1)

        def __init__(self, embedding: int, form: InputForm) -> None:
            super().__init__(embedding, form, steps, at)

    return Drawn


def double_logits(model, *inputs):
    with torch.no_grad():
        return model.double()(*inputs)
