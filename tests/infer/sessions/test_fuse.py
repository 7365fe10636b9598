"""Products gathered with what follows them, on the CPU by the slow twin; the kernels need a GPU (tests/test_gpu.py)."""

from __future__ import annotations

import operator
from collections import Counter

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from infer.sessions.cublaslt import Choices, Shape, slow_product
from infer.sessions.fuse import fuse_products
from infer.sessions.fused_session import FusedNetwork

PRODUCT = torch.ops.av1_partition.product.default


class Net(nn.Module):
    """A product and what may follow it; `form` is evaluated with x, w, b, v and t at hand."""

    def __init__(self, form: str, columns: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        for name, shape in {"w": (16, columns), "b": (columns,), "v": (16, columns), "t": (columns,)}.items():
            self.register_buffer(name, torch.randn(shape))

    def forward(self, x):
        names = {"x": x, "relu": F.relu, "mm": torch.matmul, "addmm": torch.addmm, "reshape": torch.reshape}
        return eval(self.form, names | {n: getattr(self, n) for n in "wbvt"})


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("mm(x, w)", ((False, False, False),)),
        ("relu(mm(x, w))", ((False, False, True),)),
        ("addmm(b, x, w)", ((True, False, False),)),
        ("relu(addmm(b, x, w))", ((True, False, True),)),
        ("relu(addmm(b, x, w) + relu(mm(x, v)))", ((False, False, True), (True, True, True))),
        ("relu(reshape(mm(reshape(x, (-1, 16)), w), (-1, 8)))", ((False, False, True),)),
        # A table row and a value that something else reads are no residuals.
        ("relu(mm(x, w) + t)", ((False, False, False),)),
        ("mm(x, w) * 2.0 + mm(x, v)", ((False, False, False), (False, True, False))),
    ],
)
@pytest.mark.parametrize("columns", [8, 24])
def test_what_a_product_gathers(form, expected, columns):
    form = form.replace("8", str(columns))
    graph = fx.symbolic_trace(Net(form, columns))
    x = torch.randn(5, 16)
    before = graph(x)
    assert fuse_products(graph, (x,)) == len(expected)
    torch.testing.assert_close(graph(x), before)
    found = [n.args for n in graph.graph.nodes if n.target is PRODUCT]
    assert sorted((bias is not None, residual is not None, relu) for _, _, bias, residual, relu in found) == sorted(
        expected
    )


@pytest.mark.parametrize("columns", [1, 5, 12])
def test_columns_are_filled_to_whole_16_bytes_and_cut_again(columns):
    graph = fx.symbolic_trace(Net("relu(addmm(b, x, w)) + mm(x, v)", columns))
    x = torch.randn(5, 16)
    before = graph(x)
    fuse_products(graph, (x,))
    torch.testing.assert_close(graph(x), before)
    weights = [b for name, b in graph.named_buffers() if name.startswith("weight")]
    assert weights and all(len(w) % 8 == 0 for w in weights)
    # A residual cut to fewer columns would not lie in memory as the kernel expects it.
    assert all(n.args[3] is None for n in graph.graph.nodes if n.target is PRODUCT)


def test_float16_is_fused_as_float32_is(trained_like):
    """Not in the forms that ONNX Runtime is fast at, whose biases and ReLUs stand apart from the products."""
    half, full = (FusedNetwork(trained_like(), dtype=d).compiled.core for d in (torch.float16, torch.float32))
    counts = [Counter(str(n.target) for n in g.graph.nodes if n.op == "call_function") for g in (half, full)]
    assert counts[0][str(F.relu)] == counts[1][str(F.relu)] and str(torch.maximum) not in counts[0]


@pytest.mark.parametrize("trunk", ["tiny", "compact", "resnet18"])
def test_the_fused_network_computes_what_the_model_computes(trained_like, real_blocks, trunk):
    model = trained_like(trunk=trunk)
    blocks, qindex = (torch.from_numpy(a[:256]) for a in real_blocks[:2])
    network = FusedNetwork(model, dtype=torch.float32)
    with torch.no_grad():
        expected = model(blocks, qindex)
        logits, probability, partition = network(blocks, qindex)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(probability.sum(1), torch.ones(256))
    assert partition.dtype == torch.uint8 and (partition == probability.argmax(1)).all()
    left = Counter(str(n.target) for n in network.compiled.core.graph.nodes if n.op == "call_function")
    assert not {str(torch.matmul), str(torch.addmm)} & set(left)
    if trunk != "resnet18":  # what is left between the products: four qindex conditionings, on two branches
        assert left[str(F.relu)] == 4 and left[str(operator.add)] == 4


def test_the_fused_network_sees_a_border(trained_like, wide_blocks):
    model = trained_like(border=8)
    blocks, qindex = (torch.from_numpy(a[:256]) for a in wide_blocks[:2])
    with torch.no_grad():
        logits, _, _ = FusedNetwork(model, dtype=torch.float32)(blocks, qindex)
        torch.testing.assert_close(logits, model(blocks, qindex), rtol=0, atol=1e-3)


def test_high_bit_depth_reaches_the_network(trained_like, real_blocks):
    model = trained_like()
    blocks, qindex = torch.from_numpy(real_blocks[0][:64]).int() * 4 + 1, torch.from_numpy(real_blocks[1][:64])
    with torch.no_grad():
        logits, _, _ = FusedNetwork(model, 10, torch.float32)(blocks, qindex)
        torch.testing.assert_close(logits, model(blocks, qindex, 10), rtol=0, atol=1e-3)


def test_the_slow_twin_is_the_formula():
    x, w, b, r = torch.randn(4, 3), torch.randn(2, 3), torch.randn(2), torch.randn(4, 2)
    expected = torch.stack([torch.stack([(x[i] * w[j]).sum() + b[j] + r[i, j] for j in range(2)]) for i in range(4)])
    torch.testing.assert_close(slow_product(x, w, b, r, False), expected)
    torch.testing.assert_close(slow_product(x, w, b, r, True), expected.clamp(min=0))


def test_measured_choices_outlive_the_process_and_other_processes(tmp_path):
    shape = Shape(8, 16, 24, True, False, True)
    assert shape.key() == "8x16x24-ba" and Shape(8, 16, 24, False, False, False).key() == "8x16x24"
    first, second = Choices(tmp_path / "a" / "c.json"), Choices(tmp_path / "a" / "c.json")
    with first.locked():
        first.put(shape.key(), 3)
    assert second.get(shape.key()) is None
    with second.locked():
        assert second.get(shape.key()) == 3
        second.put("1x8x8", 1)
    assert {k: Choices(tmp_path / "a" / "c.json").get(k) for k in (shape.key(), "1x8x8")} == {
        shape.key(): 3,
        "1x8x8": 1,
    }


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"1x8x8": "x"}', '{"1x8x8": null}'])
def test_choices_that_cannot_be_read_are_measured_again(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    assert Choices(tmp_path / "c.json").get("1x8x8") is None
