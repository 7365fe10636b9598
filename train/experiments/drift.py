"""How far a trunk has moved from where stage 2 found it: its BatchNorm statistics, and its features on fixed blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from train.batches import Batch
from train.freeze import batch_norms
from train.model import PartitionModel


class DriftMeter:
    """Measures a model against its state when the meter was made.

    Args:
        model: in any mode; left in eval mode by every measurement.
        batch: fixed blocks.
        bit_depth: of their samples.
    """

    def __init__(self, model: PartitionModel, batch: Batch, bit_depth: int) -> None:
        self._batch, self._bit_depth = batch, bit_depth
        self._statistics = {name: (mean.clone(), var.clone()) for name, (mean, var) in _statistics(model).items()}
        self._features = self._features_of(model)

    @torch.no_grad()
    def _features_of(self, model: PartitionModel) -> Tensor:
        model.eval()
        body, embedding = model.body(self._batch.blocks, self._batch.qindex, self._bit_depth)
        pairs = len(self._batch.label)
        return torch.cat([f.reshape(pairs, -1) for f in model.stage1_features(body, embedding)], 1).double()

    @torch.no_grad()
    def measure(self, model: PartitionModel) -> dict[str, float]:
        """Where the model stands now.

        Returns:
            bn_mean: mean over all channels of |mean - mean_0| / sqrt(var_0); bn_var: of |ln(var / var_0)|;
            feature_l2: |F - F_0| / |F_0| of the bare trunk's features in eval mode; feature_cka: 1 - linear CKA
            (Kornblith et al., ICML 2019) of the two. All 0 for a trunk that has not moved.
        """
        shifts, ratios = [], []
        for name, (mean, var) in _statistics(model).items():
            old_mean, old_var = self._statistics[name]
            shifts.append((mean - old_mean).abs() / (old_var + 1e-12).sqrt())
            ratios.append(((var + 1e-12) / (old_var + 1e-12)).log().abs())
        features = self._features_of(model)
        return {
            "bn_mean": float(torch.cat(shifts).mean()),
            "bn_var": float(torch.cat(ratios).mean()),
            "feature_l2": float((features - self._features).norm() / self._features.norm()),
            "feature_cka": 1.0 - linear_cka(features, self._features),
        }


def _statistics(model: PartitionModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Running mean and variance of each BatchNorm of the trunk, float [C] each."""
    norms = batch_norms(model.trunk)
    return {name: (bn.get_buffer("running_mean"), bn.get_buffer("running_var")) for name, bn in norms.items()}


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of two feature matrices of the same samples, 0-1.

    Args:
        a, b: float [N, D] and [N, E].
    """
    a, b = a - a.mean(0), b - b.mean(0)
    return float((b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))
