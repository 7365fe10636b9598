"""Freezing that holds: after `freeze`, nothing that is later called on a module can change its BatchNorm.

Setting `requires_grad` is not enough: `.train()` on whatever contains the module would put its BatchNorm back into
train mode, where it normalises by the batch and goes on updating its statistics (the mistake that docs/SEED_SYSTEM.md
tells of). Here every BatchNorm becomes a `FrozenBatchNorm2d`, which knows no train mode and keeps all as buffers, out
of reach of optimisers too.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm in eval mode for good; same keys in the state dict as nn.BatchNorm2d, all of them buffers."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = bn.eps
        for name, tensor in bn.state_dict().items():
            self.register_buffer(name, tensor.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [N, C, H, W]; same shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def freeze(module: nn.Module, bn_mode: str = "frozen") -> None:
    """Freeze a module in place: no parameter takes a gradient, and BatchNorm does as `bn_mode` says.

    Args:
        module: what is to stay as it is.
        bn_mode: "frozen", or "train" to reproduce the seed's bug: BatchNorm follows `.train()` and drifts.

    Raises:
        ValueError: for another mode, or a BatchNorm by itself.
    """
    if bn_mode not in ("frozen", "train"):
        raise ValueError(f"bn_mode is 'frozen' or 'train', not {bn_mode!r}")
    if isinstance(module, nn.BatchNorm2d):
        raise ValueError("a BatchNorm is replaced in what contains it: freeze that")
    module.requires_grad_(False)
    if bn_mode == "train":
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, FrozenBatchNorm2d(child))


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """Every BatchNorm of a module by name, frozen or not."""
    kinds = (nn.BatchNorm2d, FrozenBatchNorm2d)
    return {name: m for name, m in module.named_modules() if isinstance(m, kinds)}
