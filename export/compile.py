"""The compiler's steps in order, each a function model -> model that computes the same map:

fold ─► tabulate ─► merge heads ─► prune ─► lower ─► distribute ─► (offsets ─► fp16)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.cost import chooser
from export.distribute import distribute_products
from export.fold import fold_model
from export.heads import HeadsMergedModel
from export.lower import LowerOptions, lower_model
from export.offsets import carry_offsets
from export.prune import prune_model
from export.tabulate import tabulate_model
from train.model import PartitionModel

BLOCK_SIZE = 16
EXAMPLE_BATCH = 3

Observe = Callable[[str, nn.Module, tuple[Tensor, ...]], None]


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Attributes:
        fold: fold BatchNorm; without, the model is left as it is, since every other step needs it.
        lower: "conv" keeps convolutions, "gemm" makes every one a product, "auto" chooses by layer (export/cost.py).
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

    blocks ─► units of 8-bit samples ─► rows [N, 256] ─► core ─► logits float [N, 14]
    """

    scale_to_8_bit: Tensor

    def __init__(self, core: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.core, self.dtype = core.to(dtype), dtype
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
        rows = samples.to(self.dtype).reshape(-1, BLOCK_SIZE * BLOCK_SIZE)
        return self.core(rows, qindex)


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
    qindex = torch.zeros(1, dtype=torch.int32)
    raw = torch.zeros(1, BLOCK_SIZE, BLOCK_SIZE, dtype=torch.uint8), qindex
    luma, row = (torch.zeros(1, 1, BLOCK_SIZE, BLOCK_SIZE), qindex), (torch.zeros(1, BLOCK_SIZE * BLOCK_SIZE), qindex)
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
    example = (torch.zeros(EXAMPLE_BATCH, 1, BLOCK_SIZE, BLOCK_SIZE), torch.zeros(EXAMPLE_BATCH, dtype=torch.int32))
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
    compiled = CompiledModel(lowered, dtype).eval()
    if half:
        done("fp16", compiled, raw)
    return compiled, tuple(steps[1:])
