"""Classification losses by name, each logits [N, classes] and target [N] to a loss per sample, float [N].

| name | formula, p the probability of the true class |
|---|---|
| cross-entropy | -log p |
| focal | -(1 - p)^gamma log p (Lin et al., ICCV 2017) |
| cb-focal | focal, class c weighted by (1 - beta) / (1 - beta^count_c), mean weight 1 (Cui et al., CVPR 2019) |
| poly | -log p + epsilon (1 - p), epsilon 1 (PolyLoss, Leng et al., ICLR 2022) |
| asymmetric | -log p - sum over the others of q^4 log(1 - q), q their probability less 0.05, at least 0 (*) |
| label-smoothing | cross-entropy against 1 - s on the true class and s spread over all, s 0.1 |

(*) ASL (Ridnik et al., ICCV 2021), with softmax in place of its sigmoids.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from train.choices import LOSSES

Loss = Callable[[Tensor, Tensor], Tensor]

CLASS_BALANCE_BETA = 0.9999
POLY_EPSILON = 1.0
SMOOTHING = 0.1
ASYMMETRIC_GAMMA, ASYMMETRIC_MARGIN = 4.0, 0.05


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none")


def _smoothed(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none", label_smoothing=SMOOTHING)


def _poly(logits: Tensor, target: Tensor) -> Tensor:
    plain = _cross_entropy(logits, target)
    return plain + POLY_EPSILON * (1.0 - torch.exp(-plain))


def _asymmetric(logits: Tensor, target: Tensor) -> Tensor:
    others = 1.0 - F.one_hot(target, logits.shape[1])
    shifted = (logits.softmax(1) - ASYMMETRIC_MARGIN).clamp_min(0.0)
    wrong = -(shifted**ASYMMETRIC_GAMMA) * torch.log1p(-shifted)
    return _cross_entropy(logits, target) + (wrong * others).sum(1)


def _focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    plain = _cross_entropy(logits, target)
    # 1 - p by expm1: at p near 1 the difference of floats would lose all digits, and its power's gradient with them.
    return (-torch.expm1(-plain)).clamp_min(1e-12) ** gamma * plain


def class_balance_weights(counts: NDArray) -> Tensor:
    """Weight of each class, float32 [classes], mean 1 over the classes that occur (the others get 0).

    Args:
        counts: samples of each class, integer [classes].
    """
    n = torch.as_tensor(counts, dtype=torch.float64)
    weights = torch.where(n > 0, (1 - CLASS_BALANCE_BETA) / (1 - CLASS_BALANCE_BETA ** n.clamp_min(1)), 0.0)
    # Where no class occurs at all, 0: a mean of nothing would be NaN, and NaN times "no say" is still NaN.
    return (weights / weights[n > 0].mean()).float() if (n > 0).any() else weights.float()


def make_loss(name: str, counts: NDArray, gamma: float = 2.0) -> Loss:
    """The loss of that name.

    Args:
        name: one of LOSSES.
        counts: samples of each class in the training set, integer [classes]; only cb-focal looks at them.
        gamma: focusing parameter of focal and cb-focal.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "focal":
        return lambda logits, target: _focal(logits, target, gamma)
    if name == "cb-focal":
        weights = class_balance_weights(counts)
        # Kept on each device: within a CUDA graph nothing can be copied there.
        on = cache(weights.to)
        return lambda logits, target: _focal(logits, target, gamma) * on(logits.device)[target]
    plain: dict[str, Loss] = {
        "cross-entropy": _cross_entropy,
        "poly": _poly,
        "asymmetric": _asymmetric,
        "label-smoothing": _smoothed,
    }
    if name not in plain:
        raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {name!r}")
    return plain[name]
