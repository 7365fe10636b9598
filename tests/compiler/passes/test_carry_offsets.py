"""Biases carried as offsets: nothing changes, nothing adds a bias, and float16 loses next to nothing."""

from __future__ import annotations

import copy
import operator
from collections import Counter

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from compiler.compile import compile_model
from compiler.passes.carry_offsets import AGE, COLUMNS, carry_offsets
from compiler.passes.fold_batch_norm import fold_model
from compiler.passes.lower_to_products import Layout, lower_model
from compiler.passes.merge_heads import HeadsMergedModel
from compiler.passes.tabulate_qindex import tabulate_model
from compiler.targets import ONNXRUNTIME_CUDA
from description import BLOCKS
from export.onnx_writer import build_onnx
from tests import helpers
from train.model import ModelConfig, PartitionModel

WIDTH, WIDE = 8, 80


class Blocks(nn.Module):
    """`depth` residual blocks on rows, then `end`: what reads the result."""

    def __init__(self, depth: int, end: str, biases: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.depth, self.end, self.biases = depth, end, biases
        for i in range(2 * depth):
            wide = (WIDTH, WIDE) if i % 2 == 0 else (WIDE, WIDTH)
            self.register_buffer(f"w{i}", torch.randn(wide, dtype=torch.float64) / wide[0] ** 0.5)
            self.register_buffer(f"b{i}", torch.randn(wide[1], dtype=torch.float64))
        self.register_buffer("small", torch.randn(WIDTH // 2, 3, dtype=torch.float64))
        self.register_buffer("after", torch.randn(3, dtype=torch.float64))

    def affine(self, x, i):
        weight, bias = getattr(self, f"w{i}"), getattr(self, f"b{i}")
        return torch.addmm(bias, x, weight) if self.biases else torch.matmul(x, weight)

    def forward(self, x):
        for i in range(self.depth):
            x = F.relu(self.affine(F.relu(self.affine(x, 2 * i)), 2 * i + 1) + x)
        if self.end == "patches":
            # Rows in two patches each, and a ReLU on what is made of them.
            rows = torch.addmm(self.after, torch.reshape(x, (-1, WIDTH // 2)), self.small)
            return torch.reshape(F.relu(torch.reshape(rows, (-1, 6))), (-1, 2, 3)) * 2.0
        return {"gate": lambda: x * torch.sigmoid(x), "nothing": lambda: x, "twice": lambda: (x + x) * x}[self.end]()


def kinds(graph) -> Counter:
    return Counter(node.target for node in graph.graph.nodes if node.op == "call_function")


def carried(model, dtype=torch.float64):
    graph = fx.symbolic_trace(model)
    before = copy.deepcopy(graph)
    count = carry_offsets(graph, dtype)
    graph.graph.lint()
    return before, graph, count


@pytest.mark.parametrize("end", ["gate", "nothing", "patches", "twice"])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_blocks_compute_what_they_did_and_add_no_bias(depth, end):
    before, after, count = carried(Blocks(depth, end))
    x = torch.randn(64, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(after(x), before(x), rtol=0, atol=1e-11)
    assert kinds(before)[torch.addmm] >= 2 * depth
    assert kinds(after)[torch.addmm] == (end == "patches"), "one narrow bias may be left where patches end"
    assert count == kinds(after)[torch.maximum] > 0


def test_a_hidden_row_carries_a_one_where_the_value_itself_is_needed():
    _, after, _ = carried(Blocks(1, "gate"))
    shapes = sorted(tuple(b.shape) for b in after.buffers())
    assert (WIDTH, WIDE + COLUMNS) in shapes and (WIDE + COLUMNS, WIDTH) in shapes and (WIDE + COLUMNS,) in shapes


def test_an_offset_does_not_pass_more_than_so_many_products():
    """It grows from block to block; every second block takes it up."""
    _, after, _ = carried(Blocks(6, "nothing"))
    assert kinds(after)[F.relu] == 6 // ((AGE + 1) // 2)


def test_a_graph_without_biases_stays_as_it_is():
    before, after, count = carried(Blocks(2, "gate", biases=False))
    assert count == 0
    assert kinds(after) == kinds(before)
    assert {n for n, _ in after.named_buffers()} == {f"w{i}" for i in range(4)}


def test_thresholds_are_rounded_as_the_graph_will_round_them():
    before, after, _ = carried(Blocks(2, "gate"), torch.float16)
    stored = [getattr(after, str(n.args[1])) for n in after.graph.nodes if n.target is torch.maximum]
    assert stored and all(torch.equal(t.half().double(), t) for t in stored)
    x = torch.randn(64, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(after(x), before(x), rtol=0, atol=1e-2)


class Periodic(nn.Module):
    """Patches whose offsets differ, met by a ReLU before they are a row again, and by a product that must add."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.register_buffer("w", torch.randn(4, 8, dtype=torch.float64))
        self.register_buffer("b", torch.randn(8, dtype=torch.float64))
        self.register_buffer("u", torch.randn(4, 4, dtype=torch.float64))
        self.register_buffer("c", torch.randn(4, dtype=torch.float64))

    def forward(self, x):
        rows = torch.reshape(F.relu(torch.addmm(self.b, x, self.w)), (-1, 4))
        inner = F.relu(torch.addmm(self.c, rows, self.u))
        return torch.matmul(inner, self.u) * 2.0, torch.matmul(rows, self.u)


def test_offsets_that_repeat_every_few_rows():
    before, after, _ = carried(Periodic())
    x = torch.randn(50, 4, dtype=torch.float64)
    for a, b in zip(after(x), before(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.fixture(scope="module")
def half(trained_like):
    """Factory of float16 ONNX graphs, each made once."""
    made = {}

    def make(trunk: str):
        if trunk not in made:
            compiled, _ = compile_model(trained_like(trunk=trunk), ONNXRUNTIME_CUDA)
            made[trunk] = build_onnx(compiled, "uint8", {}, BLOCKS)
        return made[trunk]

    return make


@pytest.mark.parametrize(
    ("trunk", "most"),
    [
        # Sums: residuals, the shared product behind the first adapter, shifts by qindex.
        ("compact", {"Relu": 8, "Max": 16, "Add": 13, "Gather": 6, "Reshape": 17}),
        ("resnet18", {"Relu": 11, "Max": 20, "Add": 17, "Gather": 8, "Reshape": 27, "Sigmoid": 7}),
    ],
)
def test_the_form_for_cuda_stays_as_it_was_measured(half, trunk, most):
    """Each of these is a kernel of its own under onnxruntime's CUDA provider."""
    found = Counter(node.op_type for node in half(trunk).graph.node)
    assert not {"BatchNormalization", "Conv", "Gemm", "ReduceMax", "ReduceMean"} & set(found)
    assert all(found[kind] <= count for kind, count in most.items()), found


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_no_product_adds_a_constant(half, trunk):
    """onnxruntime would join a product and a constant sum into a Gemm with a bias: the kernel that is to be avoided."""
    graph = half(trunk).graph
    constants = {i.name for i in graph.initializer}
    products = {n.output[0] for n in graph.node if n.op_type == "MatMul"}
    sums = [n for n in graph.node if n.op_type == "Add" and set(n.input) & products]
    assert sums and not [n.name for n in sums if set(n.input) & constants]


def test_float16_loses_little_more_with_offsets_than_with_biases(real_blocks):
    """On a model that float16 is good for; without AGE, or with offsets of the opposite sign, it would be lost."""
    blocks, qindex = (torch.from_numpy(a[:256]) for a in real_blocks[:2])
    torch.manual_seed(0)
    model = helpers.make_calibrated(PartitionModel(ModelConfig()), 0, blocks, qindex)
    example = (torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.int32))
    folded = HeadsMergedModel(tabulate_model(fold_model(model))).eval()
    errors = []
    with torch.no_grad():
        for layout in (Layout(torch.float16), ONNXRUNTIME_CUDA.layout):
            core = lower_model(folded, example, lambda *_: True, layout)
            if layout is ONNXRUNTIME_CUDA.layout:
                carry_offsets(core, torch.float16)
            got = core.half()(blocks.reshape(-1, 256).half(), qindex).float()
            errors.append(float((got - model(blocks, qindex)).abs().mean()))
    assert errors[1] < 1.5 * errors[0] < 0.01, errors


def test_sums_are_what_mends():
    """A sum of a row with itself has no second operand to make up for the first."""
    before, after, _ = carried(Blocks(1, "twice"))
    assert kinds(after)[operator.add] == kinds(before)[operator.add]
