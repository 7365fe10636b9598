"""Products that two branches share: exactness, and that nothing is shared that only looks alike."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import fx, nn

from compiler.compile import compile_model
from compiler.passes.distribute_products import distribute_products
from compiler.targets import DISTRIBUTE, ONNXRUNTIME_CPU


class TwoBranches(nn.Module):
    """x M + b, and (x + r U) M' + b' with r = relu(x V), in patches of half a row."""

    def __init__(self, patches: int, users: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.users = patches, users
        patch, narrow = 8 // patches, 3
        shapes = {"v": (patch, narrow), "u": (narrow, patch), "m": (8, 5), "b": (5,), "n": (8, 5), "c": (5,)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.randn(shape, dtype=torch.float64))
        self.n.copy_(self.m)
        self.c.copy_(self.b)

    def forward(self, x):
        plain = torch.addmm(self.b, x, self.m)
        rows = torch.reshape(x, (-1, 8 // self.patches))
        small = torch.relu(torch.matmul(rows, self.v))
        small = torch.reshape(torch.reshape(small, (-1, 3 * self.patches)), (-1, 3))
        total = x + torch.reshape(torch.matmul(small, self.u), (-1, 8))
        adapted = torch.addmm(self.c, total, self.n)
        other = torch.matmul(total, self.m) if self.users > 1 else 0.0
        return plain, adapted, other


def traced(patches=2, users=1, spoil=None):
    model = TwoBranches(patches, users)
    if spoil:
        getattr(model, spoil).view(-1)[3] += 1e-9
    return fx.symbolic_trace(model)


def products(graph):
    return sum(n.target in (torch.matmul, torch.addmm) for n in graph.graph.nodes)


@pytest.mark.parametrize("patches", [1, 2, 4])
def test_the_product_that_both_branches_share_is_computed_once(patches):
    before = traced(patches)
    after = copy.deepcopy(before)
    assert distribute_products(after) == 1
    assert products(after) == products(before) - 1
    x = torch.randn(50, 8, dtype=torch.float64)
    for a, b in zip(before(x)[:2], after(x)[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spoil", ["n", "c"])
def test_one_weight_that_differs_keeps_the_branches_apart(spoil):
    assert distribute_products(traced(spoil=spoil)) == 0


def test_a_sum_that_something_else_reads_stays():
    assert distribute_products(traced(users=2)) == 0


@pytest.mark.parametrize(("trunk", "saved"), [("compact", 1), ("resnet18", 1)])
def test_both_trunks_share_what_stands_behind_the_first_adapter(trained_like, real_blocks, trunk, saved):
    model = trained_like(trunk=trunk)
    blocks, qindex = (torch.from_numpy(a[:256]) for a in real_blocks[:2])
    without = replace(ONNXRUNTIME_CPU, passes=tuple(p for p in ONNXRUNTIME_CPU.passes if p is not DISTRIBUTE))
    (shared, steps), (apart, fewer) = (compile_model(model, t, "gemm") for t in (ONNXRUNTIME_CPU, without))
    assert set(steps) - set(fewer) == {"distribute"}
    assert products(apart.core) - products(shared.core) == saved
    outputs = []
    for compiled in (shared, apart):
        compiled.double().dtype = torch.float64
        with torch.no_grad():
            outputs.append(compiled(blocks, qindex))
    assert outputs[1].std() > 0.5
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
