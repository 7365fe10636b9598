"""Kernel taps that only meet padding: which are cut, how many are left of resnet18, and that nothing changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from compiler.passes.fold_batch_norm import fold_model
from compiler.passes.merge_heads import HeadsMergedModel
from compiler.passes.prune_taps import ChannelScale, live_taps, map_sizes, prune_convolution, prune_model
from compiler.passes.tabulate_qindex import tabulate_model
from train.model import ModelConfig, PartitionModel

EXAMPLE = (torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.int32))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_pruned_convolution_computes_the_same_and_keeps_only_taps_that_meet_a_pixel(data):
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    size, kernel = (draw(1, 6), draw(1, 6)), (draw(1, 7), draw(1, 7))
    stride, padding = (draw(1, 3), draw(1, 3)), (draw(0, 4), draw(0, 4))
    assume(all(s + 2 * p >= k for s, p, k in zip(size, padding, kernel, strict=True)))
    depthwise = data.draw(st.booleans())
    groups = 4 if depthwise else 1
    conv = nn.Conv2d(4, 4, kernel, stride, padding, groups=groups, bias=data.draw(st.booleans())).double()
    pruned = prune_convolution(conv, size)
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(pruned(x), conv(x), rtol=0, atol=1e-12)
    if isinstance(pruned, ChannelScale):
        return
    for axis in (0, 1):
        outputs = (size[axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1
        reached = {
            t
            for t in range(kernel[axis])
            for o in range(outputs)
            if 0 <= o * stride[axis] - padding[axis] + t < size[axis]
        }
        first, count, _ = live_taps(size[axis], kernel[axis], stride[axis], padding[axis])
        assert reached <= set(range(first, first + count))
        assert count == pruned.kernel_size[axis]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "kept"),
    [
        (1, 3, 1, 1, 1),
        (2, 3, 2, 1, 2),
        (2, 3, 1, 1, 3),
        (1, 7, 1, 3, 1),
        (1, 3, 2, 1, 1),
        (16, 7, 2, 3, 7),
        (4, 3, 2, 1, 3),
    ],
)
def test_the_taps_that_live(size, kernel, stride, padding, kept):
    assert live_taps(size, kernel, stride, padding)[1] == kept


def backbone(model) -> tuple[int, int]:
    """Weights of the trunk's convolutions in stages and stem, and their multiply-adds with padding, by hand."""
    weights = multiply_adds = 0
    sizes = map_sizes(model, EXAMPLE)
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d) and (".trunk.stem" in name or ".trunk.layer" in name):
            height, width = (
                (s + 2 * p - k) // t + 1
                for s, p, k, t in zip(sizes[conv], conv.padding, conv.kernel_size, conv.stride, strict=True)
            )
            weights += conv.weight.numel()
            multiply_adds += conv.weight.numel() * height * width
    return weights, multiply_adds


def test_resnet18_keeps_a_fifth_of_its_weights_and_less_than_half_of_its_multiply_adds():
    """By hand: 3,136 + 4 * 36,864 + (73,728 + 3 * 147,456 + 8,192) + (131,072 + 3 * 65,536 + 32,768)
    + (131,072 + 3 * 262,144 + 131,072), where a 3x3/2 on a 2x2 map keeps 4 of its taps and a 3x3 on a 1x1 map 1."""
    torch.manual_seed(0)
    whole = HeadsMergedModel(tabulate_model(fold_model(PartitionModel(ModelConfig("resnet18")).eval()))).eval()
    weights, multiply_adds = backbone(whole)
    kept, fewer = backbone(prune_model(whole, EXAMPLE))
    assert (weights, kept) == (11_160_640, 2_083_904)
    assert (multiply_adds, fewer) == (15_142_912, 6_066_176)
    assert fewer <= 0.45 * multiply_adds


def test_a_convolution_that_sees_maps_of_two_sizes_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, 2, 1)

        def forward(self, x, _):
            return self.conv(self.conv(x))

    with pytest.raises(ValueError, match="maps of"):
        prune_model(Twice().eval(), EXAMPLE)


def test_train_mode_is_refused():
    with pytest.raises(ValueError, match="train mode"):
        prune_model(nn.Conv2d(1, 1, 3), EXAMPLE)
