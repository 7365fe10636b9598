"""Temperatures, fitted on pictures that training never saw.

Each head's logits are divided by a temperature (Guo et al., ICML 2017) that depends on qindex: its logarithm is linear
between the middles of partition.QINDEX_BANDS and constant outside them.

    log T ^        .--.
          |   .---'    '--.
          |--'             '------
          +---+----+----+----+---> qindex
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from description import NO_SAY, Task
from partition import QINDEX_BANDS
from train.measures.metrics import as_none
from train.measures.rows import level_rows

QINDEX_VALUES = 256
STEPS = 50


def fit_sharpness(
    logits: NDArray[np.floating], qindex: NDArray[np.integer], label: NDArray[np.integer], task: Task
) -> NDArray[np.float32]:
    """1 / temperature of every logit of a node by qindex, that minimises each head's log loss.

    Args:
        logits: float [M, task.logits], of a model without temperatures.
        qindex: 0-255, integer [M].
        label: partition id, COVERED (which counts as NONE) or OUTSIDE (which does not count), integer [M, task.nodes].
        task: whose arrays these are.

    Returns:
        float32 [256, logits of a node], level after level: PartitionModel.sharpness.
    """
    basis, parts = qindex_basis(), []
    for rows in level_rows(logits, label, task):
        z, known = torch.from_numpy(np.asarray(rows.logits, np.float64)), as_none(rows.label)
        at = torch.from_numpy(qindex[rows.pair].astype(np.int64))
        sharpness = np.ones((QINDEX_VALUES, rows.level.logits), np.float32)
        for head, part in rows.level.slices.items():
            target = torch.from_numpy(rows.level.targets[head][known])
            say = target != NO_SAY
            if say.any():
                fitted = _fit_head(z[say, part], target[say], basis[at[say]])
                sharpness[:, part] = (basis @ fitted).exp()[:, None].float().numpy()
        parts.append(sharpness)
    return np.concatenate(parts, 1)


def _fit_head(logits: Tensor, target: Tensor, basis: Tensor) -> Tensor:
    """Log sharpness at each knot, float64 [knots]; a weak pull to 0 decides where no pair says anything."""
    log_sharpness = torch.zeros(basis.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_sharpness], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits * (basis @ log_sharpness).exp()[:, None], target)
        loss = loss + 1e-4 * log_sharpness.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_sharpness.detach()


def qindex_basis() -> Tensor:
    """Weight of each band's middle at each qindex, float64 [256, bands], rows sum to 1: linear interpolation."""
    middles = [(low + high) / 2 for low, high in QINDEX_BANDS]
    positions = np.interp(np.arange(QINDEX_VALUES), middles, np.arange(len(middles)))
    weights = 1.0 - np.abs(positions[:, None] - np.arange(len(middles)))
    return torch.from_numpy(np.maximum(weights, 0.0))
