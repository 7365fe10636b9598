"""The compiler's steps in order, each a function model -> model that computes the same map:

fold ─► tabulate ─► merge heads ─► prune ─► lower ─► distribute ─► (offsets ─► fp16)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compiler.layer_cost import chooser
from compiler.passes.carry_offsets import carry_offsets
from compiler.passes.distribute_products import distribute_products
from compiler.passes.fold_batch_norm import fold_model
from compiler.passes.lower_to_products import LowerOptions, lower_model
from compiler.passes.merge_heads import HeadsMergedModel
from compiler.passes.prune_taps import prune_model
from compiler.passes.tabulate_qindex import tabulate_model
from partition import NODE_SIZE
from train.model import PartitionModel, luma_channels

EXAMPLE_BATCH = 3

Observe = Callable[[str, nn.Module, tuple[Tensor, ...]], None]


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Attributes:
        fold: fold BatchNorm; without, the model is left as it is, since every other step needs it.
        lower: "conv" keeps convolutions, "gemm" makes every one a product, "auto" chooses by
            layer (compiler/layer_cost.py).
        precision: "fp32", or "fp16" for a graph whose weights and values are float16.
        cuda: in the forms that ONNX Runtime's CUDA provider is fast at: biases as offsets, maps in its order; None
            means for fp16, whose files run on GPUs.
        rows: in the forms that the C library runs (export/c/).
    """

    fold: bool = True
    lower: str = "auto"
    precision: str = "fp32"
    cuda: bool | None = None
    rows: bool = False

    def __post_init__(self) -> None:
        if self.lower not in ("auto", "conv", "gemm"):
            raise ValueError(f"lower is 'auto', 'conv' or 'gemm', not {self.lower!r}")
        if self.precision not in ("fp32", "fp16"):
            raise ValueError(f"precision is 'fp32' or 'fp16', not {self.precision!r}")
        if self.precision == "fp16" and not self.fold:
            raise ValueError("fp16 needs a folded model")


class CompiledModel(nn.Module):
    """A lowered model with its input scaling in front; the same forward as PartitionModel's.

    blocks ─► units of 8-bit samples ─► rows [N, 256 or 512] ─► core ─► logits float [N, 14]

    A row holds the block, and with a border behind it the whole area at half resolution (train.model.luma_channels).
    """

    scale_to_8_bit: Tensor

    def __init__(self, core: nn.Module, dtype: torch.dtype, luma: int = 1) -> None:
        super().__init__()
        self.core, self.dtype, self.luma = core.to(dtype), dtype, luma
        # By bit depth; in float32 whatever the core computes in, since 12-bit samples do not fit float16.
        scale = [255.0 / ((1 << depth) - 1) if depth else 1.0 for depth in range(13)]
        self.register_buffer("scale_to_8_bit", torch.tensor(scale), persistent=False)

    def forward(self, blocks: Tensor, qindex: Tensor, bit_depth: int | Tensor = 8) -> Tensor:
        """Logits [N, 14]; arguments as PartitionModel.body."""
        # TensorRT lets a uint8 tensor meet nothing but a cast, so the blocks are cast before they are reshaped.
        if isinstance(bit_depth, Tensor):
            samples = blocks.float() * self.scale_to_8_bit.index_select(0, bit_depth.reshape(1))
        elif bit_depth != 8:
            samples = blocks.float() * self.scale_to_8_bit[bit_depth]
        else:
            samples = blocks
        samples = samples.to(self.dtype)
        # Exact in float16 too: means of four 8-bit samples are quarters below 256.
        rows = samples if self.luma == 1 else luma_channels(samples)
        return self.core(rows.reshape(-1, self.luma * NODE_SIZE**2), qindex)


def compile_model(
    model: PartitionModel, options: CompileOptions, observe: Observe = lambda *_: None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Compile a model for export.

    Args:
        model: in eval mode.
        options: which steps.
        observe: told each step's name, what it made, and arguments for a batch of one block; first "trained".

    Returns:
        The compiled model, and the names of the steps that made it, in order.

    Raises:
        ValueError: if the model is in train mode.
    """
    qindex, side = torch.zeros(1, dtype=torch.int32), model.config.side
    raw = torch.zeros(1, side, side, dtype=torch.uint8), qindex
    channels = model.trunk.luma
    shape = channels, NODE_SIZE, NODE_SIZE
    luma, row = (torch.zeros(1, *shape), qindex), (torch.zeros(1, math.prod(shape)), qindex)
    steps: list[str] = []

    def done(step: str, made: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        steps.append(step)
        observe(step, made, arguments)

    done("trained", model, raw)
    if not options.fold:
        return model, ()
    folded = fold_model(model)
    done("fold", folded, raw)
    tabulated = tabulate_model(folded)
    done("tabulate", tabulated, raw)
    merged = HeadsMergedModel(tabulated).eval()
    done("merge-heads", merged, luma)
    example = (torch.zeros(EXAMPLE_BATCH, *shape), torch.zeros(EXAMPLE_BATCH, dtype=torch.int32))
    pruned = prune_model(merged, example)
    done("prune", pruned, luma)
    half = options.precision == "fp16"
    dtype = torch.float16 if half else torch.float32
    cuda = half if options.cuda is None else options.cuda
    choose = chooser(options.lower, options.precision)
    lowered = lower_model(pruned, example, LowerOptions(choose, dtype, cuda, options.rows))
    done(f"lower-{options.lower}", lowered, row)
    distribute_products(lowered)
    done("distribute", lowered, row)
    if cuda:
        carry_offsets(lowered, dtype)
        done("offsets", lowered, row)
    compiled = CompiledModel(lowered, dtype, channels).eval()
    if half:
        done("fp16", compiled, raw)
    return compiled, tuple(steps[1:])
