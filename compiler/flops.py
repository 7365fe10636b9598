"""Multiply-adds for one block, of an ONNX model or of a module: those of convolutions and products, padding included as
it is multiplied.

1 multiply-add is 2 FLOP (docs/DESIGN.md). Elementwise operations are not counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_MULTIPLE_OF_BATCH = re.compile(r"(?:(\d+)\*)?N")


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        multiply_adds: for one block.
        weights: numbers it stores: parameters, BatchNorm's statistics, tables.
    """

    multiply_adds: int
    weights: int


@torch.no_grad()
def module_cost(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> Cost:
    """Run a module once and count.

    Args:
        module: in eval mode.
        arguments: of its forward, for a batch of one block.
    """
    with FlopCounterMode(display=False) as counter:
        module(*arguments)
    weights = sum(value.numel() for value in module.state_dict().values() if value.is_floating_point())
    return Cost(counter.get_total_flops() // 2, weights)


def cost_table(costs: Mapping[str, Cost]) -> str:
    """Costs by compile step as lines of text."""
    lines = [f"  {'after':14}{'multiply-adds':>15}{'FLOP a block':>15}{'weights':>13}"]
    for step, cost in costs.items():
        lines.append(f"  {step:14}{cost.multiply_adds:>15,}{2 * cost.multiply_adds:>15,}{cost.weights:>13,}")
    return "\n".join(lines)


def multiply_adds(proto: onnx.ModelProto) -> int:
    """Multiply-adds for a batch of one block.

    Args:
        proto: from export.onnx_writer.build_onnx, which records every shape with N for the batch axis.

    Raises:
        ValueError: if the shape of a counted node is not recorded.
    """
    graph = proto.graph
    shapes = {v.name: _shape(v) for v in [*graph.input, *graph.value_info, *graph.output]}
    shapes |= {i.name: tuple(i.dims) for i in graph.initializer}
    return sum(_of_node(node, shapes) for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """With N = 1; 0 where a size is neither known nor a multiple of N."""
    sizes = []
    for dim in value.type.tensor_type.shape.dim:
        symbol = _MULTIPLE_OF_BATCH.fullmatch(dim.dim_param)
        sizes.append(int(symbol[1] or 1) if symbol else dim.dim_value)
    return tuple(sizes)


def _of_node(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    out, weight = shapes.get(node.output[0], ()), shapes.get(node.input[1], ())
    if not out or not weight or 0 in (*out, *weight):
        raise ValueError(f"the shape of {node.op_type} {node.name} is not recorded: {out}, {weight}")
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return math.prod(out) * weight[-1 if transposed else -2]
