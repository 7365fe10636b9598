"""Which convolutions to lower: what one layer costs as a convolution and as a product.

    time = multiply-adds / rate,     multiply-adds of a convolution counted with its padding, as runtimes compute it

The rates are those of the runtime that a target of compiler.targets is for. They were measured layer by layer
(benchmarks/lowering.py; docs/COMPILER.md has the table) and matter only as ratios. On a CPU a product runs at 0.75 of a
convolution's rate but does up to 2.6 times fewer multiply-adds on a 2x2 map, where most of a padded kernel meets
padding, and 1.8 times more on a 4x4 map; at 1x1 a convolution is a product with overhead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from compiler.passes.dense_convolution import Shape, is_patchwise
from compiler.passes.lower_to_products import Choose


@dataclass(frozen=True)
class Rates:
    """Multiply-adds per unit of time of a runtime.

    Attributes:
        product: of a matrix product.
        convolution: of a convolution on a map of several positions whose kernels overlap.
        patches: of a convolution whose kernel is its stride.
        convolution_at_one: of a convolution on a 1x1 map.
        grouped: of a grouped convolution.
        moved: values of a convolution's input and output that the runtime moves from one layout to another around it,
            in place of multiply-adds.
    """

    product: float
    convolution: float
    patches: float
    convolution_at_one: float
    grouped: float
    moved: float = math.inf


# onnxruntime on AVX2 cores, in GFLOP/s of two: benchmarks/lowering.py
CPU_RATES = Rates(product=46, convolution=60, patches=30, convolution_at_one=23, grouped=0.3)
# onnxruntime-cuda on an H200, in TFLOP/s: DESIGN.md's figures for folded 3x3 convolutions at 4x4 and for products;
# what cuDNN's changes of layout cost from the profile of a 1x1/2 convolution, 2 GFLOP, in docs/LOG.md
CUDA_RATES = Rates(product=210, convolution=20, patches=20, convolution_at_one=20, grouped=1, moved=0.1)

LARGEST_MATRIX = 1 << 21
"""Entries of a matrix that "auto" makes of a convolution: a 3x3 on 128 channels of 4x4 would be 4 million, 28 times its
weights, and a file of a few megabytes would grow past a hundred."""


def chooser(lower: str, rates: Rates) -> Choose:
    """The decision for `--lower`.

    Args:
        lower: "conv" never lowers, "gemm" always does, "auto" takes what costs less.
        rates: of what the network will run on.
    """

    def choose(conv: nn.Conv2d, shape: Shape, out_shape: Shape) -> bool:
        if lower != "auto":
            return lower == "gemm"
        if math.prod(shape) * math.prod(out_shape) > LARGEST_MATRIX:
            return False
        as_convolution, as_product = costs(conv, shape, out_shape, rates)
        return as_product <= as_convolution

    return choose


def costs(conv: nn.Conv2d, shape: Shape, out_shape: Shape, rates: Rates) -> tuple[float, float]:
    """Time of a layer as a convolution and as a product, in the rates' unit of multiply-adds.

    Args:
        conv: the layer.
        shape, out_shape: (C, H, W) of its input and output map.
        rates: of the runtime.
    """
    rate = rates.convolution if math.prod(out_shape[1:]) > 1 else rates.convolution_at_one
    rate = rates.grouped if conv.groups > 1 else rate
    as_convolution = math.prod(out_shape) * math.prod(conv.weight.shape[1:])
    moving = (math.prod(shape) + math.prod(out_shape)) / rates.moved
    if is_patchwise(conv, shape):
        return as_convolution / rates.patches + moving, as_convolution / rates.product
    return as_convolution / rate + moving, math.prod(shape) * math.prod(out_shape) / rates.product
