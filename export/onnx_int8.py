"""INT8 files for CPUs: the large products read 8-bit rows and 8-bit weights, written as Q/DQ pairs that runtimes fuse.

    row ─► Q ─► DQ ─┐                            row   uint8, min-max over calibration blocks, 0 exactly 0
         W8 ─► DQ ─►┴─► Gemm ─► ReLU ─► ...      W8    int8 in +-63, a scale for each output
              b32 ─► DQ ─┘                       b32   int32, in units of both scales

Weights have 7 bits: the CPUs that multiply bytes without VNNI add two products in 16 bits, and 2 * 255 * 63 fits there,
so every CPU computes the same. The first product stays float32, since in a weight of 8 bits the mean of the samples
would outweigh their texture; so do products too small to gain, and those that ONNX Runtime would multiply as floats
all the same. It is a file for CPUs: TensorRT takes no rows of unsigned bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from data.dataset import SAMPLE_DIR, load_split, open_dataset
from description import BLOCKS, Task

TOP_WEIGHT = 63
TOP_ROW = 255
SMALLEST = 25_000
"""Weights that a product must have to be worth the conversion of its rows."""

CALIBRATION_PAIRS = 4096
_BATCH = 1024

Range = tuple[float, float]
"""Least and largest value of a row's entries over the calibration blocks."""


def quantisable(proto: onnx.ModelProto) -> list[NodeProto]:
    """The products to quantise: those that ONNX Runtime then multiplies as bytes, large, and not the first.

    Args:
        proto: a float32 graph from export.onnx_writer.build_onnx, lowered to products.
    """
    readers = _readers(proto)
    return [node for node in _candidates(proto) if _stays_a_product(node, readers.get(node.output[0], []))]


def rounded_rows(proto: onnx.ModelProto) -> list[str]:
    """The rows that become bytes: what quantised products read, and every ReLU of one, so that its product can write
    bytes.

    Args:
        proto: as `quantisable` takes it.
    """
    products = quantisable(proto)
    return sorted({node.input[0] for node in products} | _relus_of(proto, products))


def _readers(proto: onnx.ModelProto) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _relus_of(proto: onnx.ModelProto, products: list[NodeProto]) -> set[str]:
    values = {node.output[0] for node in products}
    return {node.output[0] for node in proto.graph.node if node.op_type == "Relu" and node.input[0] in values}


def _candidates(proto: onnx.ModelProto) -> list[NodeProto]:
    """Large products with constant matrix and bias behind another product or convolution."""
    constants = {i.name: i for i in proto.graph.initializer}
    multiplied: set[str] = set()
    found = []
    for node in proto.graph.node:
        product = node.op_type in ("Gemm", "MatMul") and node.input[1] in constants
        behind = any(name in multiplied for name in node.input)
        if product and behind and all(name in constants for name in node.input[2:]):
            plain = all(a.name not in ("transA", "transB") or not a.i for a in node.attribute)
            if plain and np.prod(constants[node.input[1]].dims) >= SMALLEST:
                found.append(node)
        if behind or product or node.op_type == "Conv":
            multiplied.update(node.output)
    return found


def _stays_a_product(node: NodeProto, readers: list[NodeProto]) -> bool:
    """Whether ONNX Runtime fuses it with its Q/DQ: not if it first fuses it with a sum, nor if only one of several
    readers takes bytes."""
    kinds = {reader.op_type for reader in readers}
    if len(readers) > 1:
        return "Relu" not in kinds
    return node.op_type == "Gemm" or kinds != {"Add"}


def sample_feeds(form: str, task: Task = BLOCKS, count: int = CALIBRATION_PAIRS) -> Iterator[dict[str, NDArray]]:
    """Pairs of the embedded sample's training split, drawn at random, as the graph's inputs in batches.

    Args:
        form: "uint8" or "int32", the input form; the samples are 8-bit in both.
        task: whose blocks.
        count: pairs.

    Raises:
        InputError: if the sample is damaged.
    """
    pairs = load_split(open_dataset(SAMPLE_DIR), "train", task)
    drawn = np.random.default_rng(0).permutation(len(pairs))[:count]
    for start in range(0, len(drawn), _BATCH):
        rows = drawn[start : start + _BATCH]
        feed = {"blocks": pairs.blocks[pairs.block[rows]].astype(form), "qindex": pairs.qindex[rows].astype(np.int32)}
        yield feed if form == "uint8" else feed | {"bit_depth": np.array(8, np.int32)}


def calibrate(proto: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray]]) -> dict[str, Range]:
    """The ranges of the rows that `quantise_graph` needs, under ONNX Runtime on the CPU.

    Args:
        proto: as `quantisable` takes it.
        feeds: the graph's inputs, batch by batch; real blocks.
    """
    names = rounded_rows(proto)
    traced = onnx.ModelProto()
    traced.CopyFrom(proto)
    del traced.graph.output[:]
    traced.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(traced.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges = {name: (0.0, 0.0) for name in names}
    for feed in feeds:
        for name, row in zip(names, session.run(names, dict(feed)), strict=True):
            low, high = ranges[name]
            ranges[name] = min(low, float(row.min())), max(high, float(row.max()))
    return ranges


def quantise_graph(proto: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """A copy of the model whose large products are quantised.

    Args:
        proto: as `quantisable` takes it.
        ranges: from `calibrate` on the same graph; another graph's may miss a row.

    Raises:
        KeyError: if the range of a row is missing.
        onnx.checker.ValidationError: if the result is invalid.
    """
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    _Quantiser(model, ranges).run()
    onnx.checker.check_model(model, full_check=True)
    return model


class _Quantiser:
    """Writes the Q/DQ pairs of one graph; a row or a matrix that several products read gets one pair."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
        self.graph, self.ranges = model.graph, ranges
        self.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        products = quantisable(model)
        self.products = {node.output[0] for node in products}
        self.relus = _relus_of(model, products)
        self.made: set[str] = set()
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        for node in list(self.graph.node):
            if node.output[0] in self.products:
                self._weights(node, self._row(node, 0))
            for i, name in enumerate(node.input):
                if name in self.relus:
                    self._row(node, i)
            self.nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.graph.node for name in node.input}
        kept = [i for i in self.graph.initializer if i.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _row(self, node: NodeProto, which: int) -> np.float32:
        name = node.input[which]
        scale, zero = row_parameters(self.ranges[name])
        if name not in self.made:
            self.made.add(name)
            arguments = [self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero", zero)]
            self._add("QuantizeLinear", [name, *arguments], f"{name}.8")
            self._add("DequantizeLinear", [f"{name}.8", *arguments], f"{name}.rounded")
        node.input[which] = f"{name}.rounded"
        return scale

    def _weights(self, node: NodeProto, row_scale: np.float32) -> None:
        name = node.input[1]
        values, scales = weight_values(self.constants[name])
        if name not in self.made:
            self.made.add(name)
            zeros = self._constant(f"{name}.zero", np.zeros(len(scales), np.int8))
            inputs = [self._constant(f"{name}.8", values), self._constant(f"{name}.scale", scales), zeros]
            self._add("DequantizeLinear", inputs, f"{name}.rounded", axis=1)
        node.input[1] = f"{name}.rounded"
        if len(node.input) > 2:
            # Named by the product, since another with the same bias may have another scale.
            name, unit = f"{node.output[0]}.bias", (row_scale * scales).astype(np.float32)
            bias = np.round(self.constants[node.input[2]].astype(np.float64) / unit)
            zeros = self._constant(f"{name}.zero", np.zeros(len(unit), np.int32))
            inputs = [self._constant(f"{name}.32", bias.astype(np.int32)), self._constant(f"{name}.scale", unit), zeros]
            self._add("DequantizeLinear", inputs, f"{name}.rounded", axis=0)
            node.input[2] = f"{name}.rounded"

    def _constant(self, name: str, value: NDArray | np.generic) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))


def row_parameters(span: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of a row, such that 0 is exact: value = scale (q - zero), q in 0-255."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = np.float32((high - low) / TOP_ROW) if high > low else np.float32(1.0)
    return scale, np.uint8(round(-low / float(scale)))


def weight_values(matrix: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix [in, out] as int8 in +-63 and a scale for each output, float32 [out]."""
    largest = np.abs(matrix).max(0)
    scales = np.where(largest > 0, largest / TOP_WEIGHT, 1.0).astype(np.float32)
    return np.clip(np.round(matrix / scales), -TOP_WEIGHT, TOP_WEIGHT).astype(np.int8), scales
