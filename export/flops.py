"""Multiply-adds of an ONNX model for one block: those of Conv, Gemm and MatMul, padding included as it is multiplied.

1 multiply-add is 2 FLOP (docs/DESIGN.md). Elementwise operations are not counted.
"""

from __future__ import annotations

import math
import re

import onnx

_MULTIPLE_OF_BATCH = re.compile(r"(?:(\d+)\*)?N")


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
