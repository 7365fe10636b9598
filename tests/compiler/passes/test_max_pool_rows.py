"""A max pool on rows is torch's, in every order of its rows."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from compiler.passes.dense_convolution import ORDERS, row_index
from compiler.passes.max_pool_rows import pool_index, pool_row


class Pool(nn.Module):
    def __init__(self, *words):
        super().__init__()
        self.words = words

    def forward(self, x):
        return F.max_pool2d(x, *self.words)


@pytest.mark.parametrize("words", [(3, 2, 1), (2,), (2, 1), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("out_order", ORDERS)
def test_pool_row(words, order, out_order):
    maps = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 2
    traced = fx.symbolic_trace(Pool(*words))
    expected = traced(maps)
    (node,) = (n for n in traced.graph.nodes if n.target is F.max_pool2d)
    node.meta["shape"] = expected.shape
    rows = maps.reshape(5, -1)[:, row_index((3, 8, 8), order)]
    made = pool_row(rows, pool_index(node, (3, 8, 8), order, out_order))
    assert torch.equal(made, expected.reshape(5, -1)[:, row_index(tuple(expected.shape[1:]), out_order)])
