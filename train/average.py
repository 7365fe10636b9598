"""An exponential moving average of a module's weights and BatchNorm statistics."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from errors import ArtefactError


class Average:
    """An average that starts as the module after its first step, by `update` after each.

    The decay of step n is min(decay, (1 + n) / (10 + n)): a fixed one would leave 8 % of the starting weights in an
    average over 2,500 steps at 0.999, and a network with 8 % of random weights in it is a poor one. The steps are
    counted on the host: PyTorch's AveragedModel counts them on the device, and every step would wait for it.

    Attributes:
        module: the average, a module like the one that is trained.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Args:
        module: whose average.
        decay: in the long run, per step, 0 to below 1.
        """
        self.module = copy.deepcopy(module)
        self._decay, self._steps = decay, 0
        self._own = _floats(self.module)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the module's weights in, after a step."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps)) if self._steps else 0.0
        torch._foreach_lerp_(self._own, _floats(module), 1.0 - decay)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """All that load_state_dict needs."""
        return {"steps": self._steps, "module": self.module.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ArtefactError: if it is of an older version.
        """
        if saved.keys() != {"steps", "module"}:
            raise ArtefactError("the interrupted run's average is of an older version", "train again, without --resume")
        self.module.load_state_dict(saved["module"], strict=True)
        self._steps = saved["steps"]


def _floats(module: nn.Module) -> list[Tensor]:
    """Weights and statistics; counters of batches mean nothing in an average."""
    return [t.detach() for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
