"""The compiler's steps in order: each a function model -> model that computes the same map."""

from __future__ import annotations

from torch import nn

from export.fold import fold_model
from train.model import PartitionModel


def compile_model(model: PartitionModel, fold: bool, lower: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Compile a model for export.

    Args:
        model: in eval mode.
        fold: fold BatchNorm first; without, no other step is possible either.
        lower: "auto", "conv" or "gemm".

    Returns:
        The compiled model, and the names of the steps that made it.
    """
    if not fold:
        return model, ()
    return fold_model(model), ("fold",)
