"""The cost model beside what was measured layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from compiler.layer_cost import CPU_RATES, CUDA_RATES, chooser, costs

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
# As a convolution it would force its neighbours' maps into another order (docs/COMPILER.md).
LEFT_OUT = ("depthwise",)


def test_the_faster_form_is_chosen_wherever_one_is_clearly_faster():
    rows = json.loads(max(RESULTS.glob("lowering_cpu*.json")).read_text())["rows"]
    clear = [r for r in rows if not 1 / 1.2 < r["ratio"] < 1.2 and not r["layer"].endswith(LEFT_OUT)]
    assert len(clear) > 15
    assert not [r["layer"] for r in clear if (r["ratio"] > 1) != (r["foretold"] > 1)]


@pytest.mark.parametrize(
    ("conv", "size", "out", "fp32", "fp16"),
    [
        (nn.Conv2d(1, 64, 7, 2, 3), 16, 8, False, True),
        (nn.Conv2d(64, 64, 3, 1, 1), 4, 4, False, True),
        # Little arithmetic, but cuDNN would transpose its map on the way in and out.
        (nn.Conv2d(64, 128, 1, 2), 4, 2, False, True),
        (nn.Conv2d(128, 128, 3, 1, 1), 2, 2, True, True),
        (nn.Conv2d(512, 512, 1), 1, 1, True, True),
    ],
)
def test_which_layers_become_products(conv, size, out, fp32, fp16):
    shapes = (conv.in_channels, size, size), (conv.out_channels, out, out)
    assert chooser("auto", CPU_RATES)(conv, *shapes) is fp32
    assert chooser("auto", CUDA_RATES)(conv, *shapes) is fp16
    assert chooser("gemm", CPU_RATES)(conv, *shapes) and not chooser("conv", CUDA_RATES)(conv, *shapes)


def test_auto_makes_no_matrix_that_would_dwarf_the_model():
    conv = nn.Conv2d(128, 128, 3, 1, 1)
    assert costs(conv, (128, 4, 4), (128, 4, 4), CUDA_RATES)[1] < costs(conv, (128, 4, 4), (128, 4, 4), CUDA_RATES)[0]
    assert not chooser("auto", CUDA_RATES)(conv, (128, 4, 4), (128, 4, 4))
    assert chooser("gemm", CUDA_RATES)(conv, (128, 4, 4), (128, 4, 4))


def test_a_convolution_costs_its_padding_and_a_product_its_zeros():
    conv = nn.Conv2d(8, 8, 3, 1, 1)
    as_convolution, as_product = costs(conv, (8, 4, 4), (8, 4, 4), CPU_RATES)
    assert as_convolution == 8 * 16 * 8 * 9 / CPU_RATES.convolution
    assert as_product == (8 * 16) ** 2 / CPU_RATES.product
