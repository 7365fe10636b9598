"""Run a target's passes over a model, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from compiler.passes.scale_rows import luma_shape
from compiler.targets import LOWER, Setting, Target
from description import InputForm
from train.model import PartitionModel

EXAMPLE_BATCH = 3

Observe = Callable[[str, nn.Module, tuple[Tensor, ...]], None]


@torch.no_grad()
def compile_model(
    model: PartitionModel,
    target: Target,
    lower: str = "",
    fold: bool = True,
    observe: Observe = lambda *_: None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Compile a model for export.

    Args:
        model: in eval mode.
        target: of compiler.targets; its passes, its layout.
        lower: "conv" keeps convolutions, "gemm" makes every one a product, "auto" chooses by layer; empty takes the
            target's own.
        fold: without, the model is left as it is, since every other pass needs it folded.
        observe: told each step's name, what it made, and arguments for a batch of one block; first "trained".

    Returns:
        The compiled model, and the names of the steps that made it, in order.

    Raises:
        ValueError: if the model is in train mode, or for another word of `lower`.
    """
    lower = lower or target.lower
    if lower not in LOWER:
        raise ValueError(f"lower is one of {', '.join(LOWER)}, not {lower!r}")
    task, reads, steps = model.config.task, "blocks", []
    made: nn.Module = model
    observe("trained", made, arguments(reads, task.input, 1))
    for each in target.passes_for(task) if fold else ():
        example = arguments(reads, task.input, EXAMPLE_BATCH)
        made = each.run(made, Setting(task, lower, target.layout, target.rates, example))
        reads = each.reads or reads
        if each.name:
            steps.append(each.name.format(lower=lower))
            observe(steps[-1], made, arguments(reads, task.input, 1))
    return made, tuple(steps)


def arguments(reads: str, form: InputForm, count: int) -> tuple[Tensor, Tensor]:
    """Zeros of what a model reads, as compiler.targets.Pass names it, and qindex, for a number of blocks."""
    shape = luma_shape(form)
    samples = {
        "blocks": lambda: torch.zeros(count, form.side, form.side, dtype=torch.uint8),
        "map": lambda: torch.zeros(count, *shape),
        "row": lambda: torch.zeros(count, math.prod(shape)),
    }[reads]()
    return samples, torch.zeros(count, dtype=torch.int32)
