"""The list of operations computes what the model computes, and refuses what the C library has not."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch
from torch import fx

from errors import MissingComponentError
from export.c.int8 import quantisable
from export.c.ops import logits_of, run_program
from export.c.translate import build_program
from export.c.write import build_model_program
from tests.export.c.conftest import TRUNKS, calibrated_model


def assert_computes(program, model, real_blocks):
    blocks, qindex = real_blocks[0][:256], real_blocks[1][:256]
    made = logits_of(program, run_program(program, blocks.reshape(-1, 256).astype(np.float32), qindex))
    with torch.no_grad():
        expected = model(torch.from_numpy(blocks), torch.from_numpy(qindex)).numpy()
    assert np.abs(made - expected).max() <= 1e-4


def test_program_computes_what_the_model_computes(programs, real_blocks):
    model, program, _ = programs("compact")
    assert_computes(program, model, real_blocks)


@pytest.mark.parametrize(
    "config",
    [
        {"trunk": "tiny"},
        {"trunk": "resnet18"},
        {"temperature": "qindex"},
        pytest.param({"qindex_input": "none"}, marks=pytest.mark.slow),
        pytest.param({"temperature": "qindex"}, marks=pytest.mark.slow),
        pytest.param({"adapters": "parallel"}, marks=pytest.mark.slow),
        pytest.param({"adapters": "lora"}, marks=pytest.mark.slow),
        pytest.param({"trunk": "accurate"}, marks=pytest.mark.slow),
        pytest.param({"trunk": "resnet18", "adapters": "none"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_other_configurations(real_blocks, config):
    model = calibrated_model(real_blocks, **config)
    assert_computes(build_model_program(model), model, real_blocks)


def test_what_follows_a_product_is_fused_into_it(programs):
    _, program, _ = programs("compact")
    kinds = [op.kind for op in program.ops]
    # Left apart: the block without its mean, and the features that stage 1 and the adapter both read.
    assert kinds.count("apply") == 2 and "maximum" not in kinds
    assert all(op.act == "relu" for op in program.ops if op.matrix is not None and op.matrix.size >= 400_000)


def test_a_row_is_read_only_after_it_is_made(programs):
    _, program, _ = programs("compact")
    made = {"luma"}
    for op in program.ops:
        assert made.issuperset(op.reads())
        made.add(op.out)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_first_product_and_small_ones_stay_float(programs, trunk):
    _, program, quantised = programs(trunk)
    chosen = {op.out for op in quantisable(program)}
    products = [op for op in program.ops if op.matrix is not None]
    first = next(op for op in products if op.matrix.size >= 25_000)
    assert first.out not in chosen and len(chosen) >= {"tiny": 11}.get(trunk, 20)
    assert {op.out for op in quantised.ops if op.row is not None} == chosen
    assert all(op.matrix.size >= 25_000 for op in products if op.out in chosen)


def _graph(function):
    graph = fx.Graph()
    luma, qindex = graph.placeholder("luma"), graph.placeholder("qindex")
    graph.output(function(graph, luma, qindex))
    module = fx.GraphModule({"matrix": torch.ones(256, 14), "table": torch.ones(256, 256)}, graph)
    return module.eval()


FOREIGN = {
    "tanh": lambda g, luma, q: g.call_function(torch.tanh, (luma,)),
    "flatten": lambda g, luma, q: g.call_function(torch.flatten, (luma,)),
    "product of two rows": lambda g, luma, q: g.call_function(torch.matmul, (luma, luma)),
    "difference": lambda g, luma, q: g.call_function(operator.sub, (luma, luma)),
    "square": lambda g, luma, q: g.call_function(operator.mul, (luma, luma)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_operation_is_refused(monkeypatch, name):
    module = _graph(FOREIGN[name])
    if name == "product of two rows":  # not of shapes that can be run
        monkeypatch.setattr("export.c.translate._Shapes.run", lambda self, *_: _give_sizes(self.module))
    with pytest.raises(MissingComponentError, match="the C library has no operation"):
        build_program(module, 256)


def _give_sizes(module):
    for node in module.graph.nodes:
        node.meta["size"] = (3, 256)
