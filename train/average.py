"""An exponential moving average of a module's weights and BatchNorm statistics."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def average_of(module: nn.Module, decay: float) -> AveragedModel:
    """An average that starts as the module after its first step, by `update_parameters(module)` after each.

    The decay of step n is min(decay, (1 + n) / (10 + n)): a fixed one would leave 8 % of the starting weights in an
    average over 2,500 steps at 0.999, and a network with 8 % of random weights in it is a poor one.

    Args:
        module: whose average.
        decay: in the long run, per step, 0 to below 1.
    """

    def update(averaged: Tensors, current: Tensors, step: Tensor | int) -> None:
        n = int(step)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, step)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)
