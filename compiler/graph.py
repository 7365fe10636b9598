"""The graph that every runtime gets: logits, probabilities and partitions of a batch, in one of two input forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from description import Level, Task
from train.model import chain_rule


class PredictorGraph(nn.Module):
    """A model (folded or not) as the exported graph (docs/DESIGN.md, Model).

    blocks uint8 [N, S, S], qindex int32 [N] ─► the outputs that `outputs` names; S is the side of the task's blocks
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, blocks: Tensor, qindex: Tensor) -> tuple[Tensor, ...]:
        """blocks uint8 [N, S, S], qindex int32 [N]."""
        return outputs(self.model(blocks, qindex), self.task)


class HighBitDepthGraph(PredictorGraph):
    """The same for 10 and 12 bit: blocks int32 [N, S, S], qindex int32 [N], bit_depth int32 scalar (8, 10 or 12)."""

    def forward(self, blocks: Tensor, qindex: Tensor, bit_depth: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """blocks int32 [N, S, S], qindex int32 [N], bit_depth int32 []."""
        return outputs(self.model(blocks, qindex, bit_depth), self.task)


def outputs(logits: Tensor, task: Task) -> tuple[Tensor, ...]:
    """What a graph gives, in the order of task.output_names, from logits float [N, task.logits].

    If a block is one node: logits float32 [N, logits], probability float32 [N, types], partition int32 [N]. Else of
    each level logits float32 [N, nodes, logits], then of each probability float32 [N, nodes, types], then partition
    int32 [N, nodes]. Partitions are ids (int32: TensorRT has no other integer output as cheap).
    """
    if task.one_node:
        logits = logits.float()
        (level,) = task.levels
        probability = chain_rule(logits, level)
        return logits, probability, _ids(probability.argmax(1), level)
    parts = task.split_logits(logits)
    by_level, probabilities, partitions = [], [], []
    for level in task.levels:
        # Each cast by itself: what is computed in float32 behind a float16 network is behind an output of it.
        rows = parts[level.node_size].float()
        nodes = task.nodes_of(level)
        probability = chain_rule(rows.reshape(-1, level.logits), level).reshape(-1, nodes, len(level.types))
        by_level.append(rows)
        probabilities.append(probability)
        partitions.append(_ids(probability.argmax(2), level))
    return *by_level, *probabilities, *partitions


def _ids(column: Tensor, level: Level) -> Tensor:
    """Partition ids int32 of columns of `probability`, any shape."""
    if level.types == tuple(range(len(level.types))):
        return column.to(torch.int32)
    table = torch.tensor(level.types, dtype=torch.int32, device=column.device)
    return table.index_select(0, column.flatten()).reshape(column.shape)
