"""Compute in float16 from the first product on; what comes before it, the scaling of samples, stays float32.

    blocks ─► scaled luma ─► minus its mean ─► cast ─► convolution ─► ... ─► logits
              └───────── float32 ─────────┘           └──── float16 ─────┘

A mean of 4,096 samples, and the texture left once it is subtracted, would lose bits that the texture needs. For models
whose convolutions stay convolutions; lowered ones are narrowed by scale_rows.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from compiler.passes.scale_rows import luma_shape
from compiler.passes.share_branches import trace
from train.model import PartitionModel, luma_channels

EXAMPLE_BATCH = 3


class NarrowedModel(nn.Module):
    """A folded and tabulated PartitionModel in float16; the same forward, logits float16 [N, task.logits]."""

    sample_maximum: Tensor

    def __init__(self, model: PartitionModel) -> None:
        super().__init__()
        self.form = model.config.form
        example = torch.zeros(EXAMPLE_BATCH, *luma_shape(self.form)), torch.zeros(EXAMPLE_BATCH, dtype=torch.int32)
        self.core = narrow(trace(_BehindScaling(model), example))
        self.register_buffer("sample_maximum", model.sample_maximum.clone(), persistent=False)

    def forward(self, blocks: Tensor, qindex: Tensor, bit_depth: int | Tensor = 8) -> Tensor:
        """Logits; arguments as PartitionModel.body."""
        if isinstance(bit_depth, int):
            scale: float | Tensor = 1.0 / ((1 << bit_depth) - 1)
        else:
            scale = 1.0 / self.sample_maximum.index_select(0, bit_depth.reshape(1))
        return self.core(luma_channels(blocks.float(), self.form) * scale, qindex)


class _BehindScaling(nn.Module):
    """A PartitionModel from the scaled luma on."""

    def __init__(self, model: PartitionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, luma: Tensor, qindex: Tensor) -> Tensor:
        embedding = None if self.model.embedding is None else self.model.embedding(qindex)
        return self.model.answers(self.model.trunk.body(luma, embedding), embedding, qindex)


@torch.no_grad()
def narrow(traced: fx.GraphModule) -> fx.GraphModule:
    """A graph in float16 from the first layer on that the luma meets.

    Args:
        traced: from compiler.passes.share_branches.trace; its first input is the luma, float32.
    """
    state: dict[str, nn.Module | Tensor] = {}
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    wide: set[fx.Node] = set()
    for node in traced.graph.nodes:
        operands = [n for n in node.all_input_nodes if "shape" in n.meta]
        stays = node.op != "call_module" and bool(operands) and all(n in wide for n in operands)
        if (node.op == "placeholder" and not made) or stays:
            wide.add(node)

        def operand(value: fx.Node, stays: bool = stays) -> fx.Node:
            casts = value in wide and not stays and "shape" in value.meta
            return graph.call_method("to", (made[value], torch.float16)) if casts else made[value]

        made[node] = graph.node_copy(node, operand)
        if node.op == "call_module":
            state[str(node.target)] = traced.get_submodule(str(node.target))
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            state[str(node.target)] = getattr(traced.get_submodule(owner), name)
    graph.lint()
    return fx.GraphModule(state, graph).half().eval()
