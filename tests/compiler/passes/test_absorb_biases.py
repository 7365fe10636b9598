"""Biases moved into qindex tables: only where nothing else reads the table."""

from __future__ import annotations

import pytest
import torch

from compiler.passes.absorb_biases import absorb_biases
from compiler.passes.fold_batch_norm import fold_model
from compiler.passes.merge_heads import HeadsMergedModel
from compiler.passes.share_branches import trace
from compiler.passes.tabulate_qindex import tabulate_model
from train.model import ModelConfig, PartitionModel


@pytest.mark.parametrize(
    ("trunk", "films", "absorbed"), [("compact", "drawn", 3), ("resnet18", "drawn", 1), ("resnet18", "equal", 0)]
)
def test_absorbing_changes_nothing(real_blocks, trunk, films, absorbed):
    """Films that are equal, such as untrained ones, are one lookup that several layers read."""
    torch.manual_seed(0)
    model = PartitionModel(ModelConfig(trunk)).eval()
    for name, parameter in model.named_parameters():
        if "film" in name and films == "drawn":
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
        if "bn.bias" in name:
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    luma, qindex = torch.from_numpy(real_blocks[0][:64]).float()[:, None], torch.from_numpy(real_blocks[1][:64])
    with torch.no_grad():
        tabulated = HeadsMergedModel(tabulate_model(fold_model(model))).eval()
        expected = tabulated(luma, qindex)
        graph = trace(tabulated, (luma[:3], qindex[:3]))
        assert absorb_biases(graph) == absorbed
        torch.testing.assert_close(graph(luma, qindex), expected, rtol=0, atol=1e-5)
