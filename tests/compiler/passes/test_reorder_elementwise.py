"""Operations moved to where there is less to do: the same values, and only where moving them is exact."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.passes.reorder_elementwise import reorder
from compiler.passes.share_branches import shape_of, trace
from compiler.passes.tabulate_qindex import TabulatedFilm

CHANNELS = 6


class Pooled(nn.Module):
    """conv ─► (film) ─► (ReLU) ─► max pool ─► conv."""

    def __init__(self, film: bool, relu: bool, scales: tuple[float, float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, CHANNELS, 3, 2, 1), nn.Conv2d(CHANNELS, 2, 3)
        low, high = scales
        scale = torch.rand(256, CHANNELS) * (high - low) + low
        self.film = TabulatedFilm(scale, torch.randn(256, CHANNELS)) if film else None
        self.relu = relu

    def forward(self, x, qindex):
        x = self.first(x)
        x = x if self.film is None else self.film(x, qindex)
        x = F.relu(x) if self.relu else x
        return self.last(F.max_pool2d(x, 3, 2, 1))


class Gated(nn.Module):
    """A map that is gated and scaled; `spoil` reads what stands between."""

    def __init__(self, spoil: bool) -> None:
        super().__init__()
        self.spoil = spoil

    def forward(self, x, gate, scale):
        gated = x * gate[:, :, None, None]
        out = gated * scale[:, :, None, None]
        return out + gated if self.spoil else out


def order(graph) -> list[str]:
    names = {F.relu: "relu", F.max_pool2d: "pool"}
    return [names[n.target] for n in graph.graph.nodes if n.target in names]


def check(model, inputs, moved: int):
    graph = trace(model.eval(), tuple(i[:3] for i in inputs))
    assert reorder(graph) == moved
    with torch.no_grad():
        torch.testing.assert_close(graph(*inputs), model(*inputs), rtol=1e-6, atol=1e-6)
    return graph


@pytest.mark.parametrize(
    ("film", "relu", "scales", "moved"),
    [
        (True, True, (0.5, 1.5), 3),
        (True, True, (0.0, 1.5), 3),
        (True, False, (0.5, 1.5), 2),
        (False, True, (0.5, 1.5), 1),
        (False, False, (0.5, 1.5), 0),
        # With a scale below zero the maximum is another position's: only the ReLU may move.
        (True, True, (-0.2, 1.5), 1),
        (True, False, (-0.2, 1.5), 0),
    ],
)
def test_what_stands_before_a_max_pool(film, relu, scales, moved):
    inputs = torch.randn(300, 1, 16, 16), torch.arange(300) % 256
    graph = check(Pooled(film, relu, scales), inputs, moved)
    assert order(graph) == ["pool", "relu"] if relu else ["pool"]
    pool = next(n for n in graph.graph.nodes if n.target is F.max_pool2d)
    followers = [n for n in graph.graph.nodes if pool in n.all_input_nodes]
    assert moved == 0 or all(shape_of(n) == shape_of(pool) for n in followers)


def test_moving_a_negative_scale_would_be_found_out(monkeypatch):
    """The mutation test of the one above: without the check the values differ."""
    monkeypatch.setattr("compiler.passes.reorder_elementwise.table_of", lambda *_: torch.ones(1))
    with pytest.raises(AssertionError):
        check(Pooled(True, True, (-0.2, 1.5)), (torch.randn(300, 1, 16, 16), torch.arange(300) % 256), 3)


@pytest.mark.parametrize(("size", "spoil", "moved"), [(4, False, 1), (1, False, 0), (4, True, 0)])
def test_two_gates_become_one(size, spoil, moved):
    inputs = torch.randn(20, CHANNELS, size, size), torch.randn(20, CHANNELS), torch.randn(20, CHANNELS)
    graph = check(Gated(spoil), inputs, moved)
    shapes = Counter(shape_of(n)[2:] for n in graph.graph.nodes if n.name.startswith("mul"))
    assert shapes[(1, 1)] == (moved if size > 1 else 2)
