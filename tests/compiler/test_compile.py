"""The whole compiler: random networks of every supported layer, and each step on the models that are shipped."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from compiler.compile import arguments
from compiler.layer_cost import CPU_RATES, chooser
from compiler.passes.carry_offsets import carry_offsets
from compiler.passes.distribute_products import distribute_products
from compiler.passes.fold_batch_norm import fold_model
from compiler.passes.lower_to_products import Layout, lower_model
from compiler.passes.merge_heads import HeadsMergedModel
from compiler.passes.prune_taps import prune_model
from compiler.passes.scale_rows import RowsScaledModel
from compiler.passes.tabulate_qindex import tabulate_model
from compiler.targets import ONNXRUNTIME_CUDA
from description import task_of_border
from tests import helpers
from tests.compiler.random_trunk import double_logits, draw_trunk
from train.backbones import TRUNKS
from train.choices import ADAPTERS
from train.model import ModelConfig, PartitionModel

CUDA_IN_FLOAT32 = replace(ONNXRUNTIME_CUDA.layout, dtype=torch.float32)


def lowered(model, lower: str, cuda: bool):
    """Everything up to the lowering, computed in float64: only the rounding of weights to float32 is left."""
    form, layout = model.config.form, CUDA_IN_FLOAT32 if cuda else Layout()
    example = arguments("map", form, 3)
    pruned = prune_model(HeadsMergedModel(tabulate_model(fold_model(model))).eval(), example)
    graph = lower_model(pruned, example, chooser(lower, CPU_RATES), layout)
    distribute_products(graph)
    if cuda:
        carry_offsets(graph, torch.float32)
    return RowsScaledModel(graph, torch.float64, form)


# Phase.shrink would find a smaller failing network, in up to five minutes.
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
@given(st.data())
def test_any_network_of_the_supported_layers_compiles_to_what_it_was(real_blocks, wide_blocks, data):
    border = data.draw(st.sampled_from((0, 8)), label="border")
    blocks, qindex = (torch.from_numpy(a[:256]) for a in (wide_blocks if border else real_blocks)[:2])
    drawn = draw_trunk(data.draw, 2 if border else 1)
    config = {
        "task": task_of_border(border),
        "qindex_input": data.draw(st.sampled_from(("film", "none")), label="qindex"),
        "adapters": data.draw(st.sampled_from(ADAPTERS), label="adapters"),
        "adapter_reduction": data.draw(st.sampled_from((1, 2, 4))),
        "temperature": data.draw(st.sampled_from(("none", "qindex")), label="temperature"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRUNKS, "drawn", lambda: drawn)
        torch.manual_seed(0)
        model = helpers.make_randomised(PartitionModel(ModelConfig("drawn", **config)), 0, blocks, qindex)
    with torch.no_grad():
        in_float32 = model(blocks, qindex)
    expected = double_logits(copy.deepcopy(model), blocks, qindex)
    # A network with a head that hardly moves, scaled up, amplifies any rounding; NaN if it is dead.
    assume(bool((expected.std(0) > 0.5).all()) and bool((in_float32 - expected).abs().max() < 1e-5))
    lower = data.draw(st.sampled_from(("conv", "gemm", "auto")), label="lower")
    compiled = lowered(model, lower, data.draw(st.booleans(), label="cuda"))
    assert (double_logits(compiled, blocks, qindex) - expected).abs().max() <= 1e-4
