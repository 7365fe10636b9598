"""An ONNX pass for ONNX Runtime's CUDA provider, which adds a Gemm's bias as a product of its own: carry a one along.

    relu(x W + b) W' + b'        becomes        relu(x [W 0] + [b 1]) [W' over b']

The row between two layers gets `WIDTH` more values, of which the first is relu(1) = 1 and the rest 0; the second
layer's bias becomes a row of its matrix and is accumulated with the product. WIDTH is 8 and not 1, since tensor cores
want rows of whole 16 bytes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

WIDTH = 8


def carry_bias_columns(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model in which every Gemm behind a Gemm and a ReLU has its bias within its matrix.

    Args:
        proto: as export/onnx_writer.py makes it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    constants = {i.name: i for i in graph.initializer}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for second in list(graph.node):
        relu = made_by.get(second.input[0]) if second.op_type == "Gemm" and len(second.input) == 3 else None
        first = made_by.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
        if first is None or relu is None or first.op_type != "Gemm" or len(first.input) != 3:
            continue
        if uses[relu.output[0]] != 1 or uses[first.output[0]] != 1 or first.input[2] not in constants:
            continue
        weight, bias = (numpy_helper.to_array(constants[n]) for n in first.input[1:])
        one = np.eye(1, WIDTH, dtype=bias.dtype)[0]
        wide = np.pad(weight, ((0, 0), (0, WIDTH)))
        next_weight, next_bias = (numpy_helper.to_array(constants[n]) for n in second.input[1:])
        tall = np.concatenate([next_weight, next_bias[None], np.zeros((WIDTH - 1, len(next_bias)), bias.dtype)])
        first.input[1] = _added(graph, constants, f"{first.input[1]}_wide", wide)
        first.input[2] = _added(graph, constants, f"{first.input[2]}_one", np.concatenate([bias, one]))
        second.input[1] = _added(graph, constants, f"{second.input[1]}_tall", tall)
        del second.input[2]
    used = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    return model


def _added(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto], name: str, value: np.ndarray) -> str:
    if name not in constants:
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        graph.initializer.append(constants[name])
    return name
