"""Replace everything that depends on qindex alone by a table of its 256 values. Exact: it is evaluated, not fitted.

qindex ─► embedding ─► Film's linear ─► 1 + scale, shift         becomes         qindex ─► row of [256, C], twice
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.layers import Film, QindexEmbedding
from train.model import PartitionModel

QINDEX_VALUES = 256


class QindexItself(nn.Module):
    """Stands where the embedding stood and hands qindex on, since every Film now looks up by itself."""

    def forward(self, qindex: Tensor) -> Tensor:
        """qindex integer [N]."""
        return qindex


class TabulatedFilm(nn.Module):
    """A Film whose scale and shift are looked up: `scale` and `shift` float32 [256, C], by qindex."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor, qindex: Tensor) -> Tensor:
        """x float [N, C, H, W], qindex integer [N]; returns the shape of x."""
        scale, shift = F.embedding(qindex, self.scale), F.embedding(qindex, self.shift)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


@torch.no_grad()
def tabulate_model(model: PartitionModel) -> PartitionModel:
    """A copy of the model in which qindex is looked up; the model itself if it does not look at qindex.

    Computed in float64 and rounded once.

    Raises:
        ValueError: if the model is in train mode.
    """
    if any(m.training for m in model.modules()):
        raise ValueError("the model is in train mode: call .eval() before tabulating")
    if not isinstance(model.embedding, QindexEmbedding):
        return model
    tabulated = copy.deepcopy(model)
    embedding = copy.deepcopy(model.embedding).double()(torch.arange(QINDEX_VALUES))
    tabulated.embedding = QindexItself()  # type: ignore[assignment]
    for i, film in enumerate(tabulated.trunk.films):
        assert isinstance(film, Film)
        scale, shift = copy.deepcopy(film.linear).double()(embedding).chunk(2, 1)
        dtype = film.linear.weight.dtype
        tabulated.trunk.films[i] = TabulatedFilm((1.0 + scale).to(dtype), shift.to(dtype).clone())
    return tabulated.eval()
