"""Multiply-adds counted on ONNX graphs: against counts by hand, and the limits that the models must keep."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.compile import compile_model
from compiler.flops import Cost, cost_table, module_cost, multiply_adds
from compiler.targets import ONNXRUNTIME_CPU
from description import BLOCKS
from export.onnx_writer import build_onnx
from train.model import ModelConfig, PartitionModel


class OneConvolution(nn.Module):
    """A convolution and a linear layer whose multiply-adds are counted by hand below."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 3, 4, 2, 1), nn.Linear(3 * 8 * 8, 14)

    def forward(self, blocks, qindex):
        return self.linear(self.conv(blocks.float()[:, None]).flatten(1))


def test_a_graph_counts_as_by_hand():
    by_hand = 3 * 8 * 8 * 4 * 4 + 3 * 8 * 8 * 14
    assert multiply_adds(build_onnx(OneConvolution().eval(), "uint8", {}, BLOCKS)) == by_hand


def test_a_module_counts_as_its_graph():
    module = OneConvolution().eval()
    cost = module_cost(module, (torch.zeros(1, 16, 16), torch.zeros(1)))
    assert cost == Cost(multiply_adds(build_onnx(module, "uint8", {}, BLOCKS)), 3 * 16 + 3 + 14 * 192 + 14)


def test_weights_are_all_numbers_that_a_module_stores():
    batch_norm = nn.BatchNorm2d(5)  # 4 of them for each channel; the count of batches is none
    assert module_cost(batch_norm.eval(), (torch.zeros(1, 5, 2, 2),)) == Cost(0, 20)


def test_a_table_of_costs_shows_flop_as_two_for_a_multiply_add():
    lines = cost_table({"trained": Cost(1000, 7), "fold": Cost(900, 6)}).splitlines()
    assert lines[1].split() == ["trained", "1,000", "2,000", "7"] and len(lines) == 3


@pytest.mark.parametrize("lower", ["auto", "gemm"])
def test_compact_costs_at_most_12_mflop_a_block_once_compiled(lower):
    torch.manual_seed(0)
    compiled, _ = compile_model(PartitionModel(ModelConfig()).eval(), ONNXRUNTIME_CPU, lower)
    assert 2 * multiply_adds(build_onnx(compiled, "uint8", {}, BLOCKS)) <= 12e6


def test_a_shape_that_is_not_recorded_is_refused():
    proto = build_onnx(OneConvolution().eval(), "uint8", {}, BLOCKS)
    del proto.graph.value_info[:]
    with pytest.raises(ValueError, match="is not recorded"):
        multiply_adds(proto)
