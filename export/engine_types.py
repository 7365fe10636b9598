"""Is every layer of an engine of the type that was asked for? Read back from the parsed network and, where a GPU is
there, from the engine; TensorRT follows the graph's types without a word, also when they are not the ones meant.

In an fp16 engine every product is float16, and so is all else, except by these rules:

    uint8/int32 ─► [scaling, float32] ─► cast ─► float16 ... float16 ─► cast ─► logits ─► [probability, float32]
                    before the first               │
                    product: 12-bit samples        └► cast ─► [reduction, float32] ─► cast ─►
                    do not fit float16

1. *after*: the cast to a float32 output of the network, and what is computed from that output alone;
2. *before*: what is computed from inputs and constants alone, up to the first product;
3. *between*: a reduction that stands between a cast up and a cast down: it only accumulates.

A cast down computes nothing, so it is judged by what wrote its operand. A product (convolution, matrix product) is
excused by none of the rules. In an fp32 engine nothing is of a narrower type.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from errors import ArtefactError

PRODUCTS = frozenset({"MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM"})
FLOATS = frozenset({"float32", "float16", "bfloat16", "fp8", "fp4", "e8m0"})
_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_SHOWN = 5


@dataclass(frozen=True)
class Layer:
    """A layer of a parsed network, or of an engine.

    Attributes:
        name: unique.
        kind: TensorRT's LayerType by name, such as "MATRIX_MULTIPLY"; of an engine, the inspector's word.
        inputs, outputs: tensors as (name, type), in the network's order; types as numpy spells them.
        origins: names of the ONNX nodes that it came from; empty for what the parser added.
    """

    name: str
    kind: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    origins: tuple[str, ...] = ()

    @property
    def floats(self) -> set[str]:
        """The floating types that it reads or writes."""
        return {kind for _, kind in (*self.inputs, *self.outputs)} & FLOATS


def read_network(network: Any) -> tuple[Layer, ...]:
    """Every layer of a parsed INetworkDefinition, in its order (operands before what reads them)."""

    def tensors(count: int, get: Any) -> tuple[tuple[str, str], ...]:
        found = [get(i) for i in range(count)]
        return tuple((t.name, type_name(t.dtype)) for t in found if t is not None)

    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return tuple(
        Layer(
            layer.name,
            layer.type.name,
            tensors(layer.num_inputs, layer.get_input),
            tensors(layer.num_outputs, layer.get_output),
            _onnx_nodes(layer.metadata),
        )
        for layer in layers
    )


def _onnx_nodes(metadata: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[ONNX Layer: (.*?)\]", metadata))


def type_name(dtype: Any) -> str:
    """A DataType's name as numpy spells it."""
    return _NAMES.get(dtype.name, dtype.name.lower())


def type_counts(layers: Sequence[Layer]) -> dict[str, int]:
    """How many layers there are of each kind and type of first output, in order of the name."""
    counts = Counter(f"{layer.kind} {layer.outputs[0][1]}" for layer in layers if layer.outputs)
    return dict(sorted(counts.items()))


def wrong_layers(layers: Sequence[Layer], precision: str, outputs: frozenset[str]) -> list[Layer]:
    """The layers of a parsed network whose types are not those of the request.

    Args:
        layers: from read_network.
        precision: "fp32" or "fp16".
        outputs: names of the network's outputs.
    """
    if precision == "fp32":
        return [layer for layer in layers if layer.floats - {"float32"}]
    excused = _excused(layers, outputs)
    return [layer for layer in layers if layer.floats - {"float16"} and layer.name not in excused]


def require_types(layers: Sequence[Layer], precision: str, outputs: frozenset[str], what: str) -> None:
    """Raise unless the parsed network is of the precision that was asked for.

    Raises:
        ArtefactError: naming the layers that are not, or that there is no product at all.
    """
    wrong = wrong_layers(layers, precision, outputs)
    if wrong:
        raise _mistyped(wrong, precision, what)
    if not any(layer.kind in PRODUCTS for layer in layers):
        raise ArtefactError(f"{what} holds no product: it is no network of this toolkit", "export again")


def _mistyped(wrong: Sequence[Layer], precision: str, what: str) -> ArtefactError:
    named = ", ".join(f"{w.name} ({w.kind} {'/'.join(sorted(w.floats))})" for w in wrong[:_SHOWN])
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return ArtefactError(
        f"{what} was to be {precision}, but of its layers {len(wrong)} are not: {named}{more}",
        "TensorRT takes types from the ONNX graph: export that graph again with this --precision",
    )


def _excused(layers: Sequence[Layer], outputs: frozenset[str]) -> set[str]:
    """Names of the layers that may hold float32 in an fp16 network, by the three rules."""
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        for name, _ in layer.inputs:
            readers.setdefault(name, []).append(layer)
    writer = {name: layer for layer in layers for name, _ in layer.outputs}
    before: set[str] = set()  # tensors
    after: set[str] = set()
    excused = set()
    for layer in layers:
        read, written = _of_type(layer.inputs, FLOATS), _of_type(layer.outputs, FLOATS)
        if layer.kind in PRODUCTS:
            continue
        if read <= before:
            before |= written
        elif (_is_cast_up(layer) and written & outputs) or (read & after and read <= after | before):
            after |= written
        elif not (_is_cast(layer, "float32", "float16") or _only_accumulates(layer, readers, writer)):
            continue
        excused.add(layer.name)
    return excused


def _only_accumulates(layer: Layer, readers: dict[str, list[Layer]], writer: dict[str, Layer]) -> bool:
    """Whether it is a cast up to a reduction that is cast down again, or that reduction."""
    if _is_cast_up(layer):
        return all(_is_between(reader, readers) for reader in readers.get(layer.outputs[0][0], []))
    return _is_between(layer, readers) and all(_is_cast_up(writer[name]) for name, _ in layer.inputs[:1])


def _of_type(tensors: Sequence[tuple[str, str]], kinds: frozenset[str]) -> set[str]:
    return {name for name, kind in tensors if kind in kinds}


def _is_cast(layer: Layer, read: str, written: str) -> bool:
    return layer.kind == "CAST" and [kind for _, kind in (*layer.inputs, *layer.outputs)] == [read, written]


def _is_cast_up(layer: Layer) -> bool:
    return _is_cast(layer, "float16", "float32")


def _is_between(layer: Layer, readers: dict[str, list[Layer]]) -> bool:
    """Whether it is a reduction that nothing but casts to float16 reads."""
    after = [r for name, _ in layer.outputs for r in readers.get(name, [])]
    return layer.kind == "REDUCE" and bool(after) and all(_is_cast(r, "float32", "float16") for r in after)


# --- the built engine -------------------------------------------------------------------------------------------------

# What the inspector calls layers that move values and compute nothing.
_MOVES = frozenset({"constant", "noop", "reformat", "shapehostcopy", "shape_call", "signal", "wait"})


def read_engine(text: str) -> tuple[Layer, ...]:
    """The layers of a built engine, from IEngineInspector's JSON.

    The type is in "Format/Datatype" up to TensorRT 10 and in "DataType" from 11 on, as "Half" or within a sentence such
    as "Row major linear FP16 format"; which ONNX nodes a layer was fused from is in "Metadata", as "[ONNX Layer: name]"
    for each (NVIDIA, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x").

    Raises:
        ArtefactError: if the engine was built without ProfilingVerbosity.DETAILED, or the text is no such JSON.
    """
    try:
        found = json.loads(text)["Layers"]
        return tuple(
            Layer(
                each["Name"],
                each.get("LayerType", ""),
                tuple(_inspected(t) for t in each.get("Inputs", [])),
                tuple(_inspected(t) for t in each.get("Outputs", [])),
                _onnx_nodes(each.get("Metadata", "")),
            )
            for each in found
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"the engine inspector's answer cannot be read: {error!r}", "report it") from None


def _inspected(tensor: dict[str, Any]) -> tuple[str, str]:
    text = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "").lower()
    for pattern, kind in (
        (r"half|fp16|float16", "float16"),
        (r"bfloat16|bf16", "bfloat16"),
        (r"float|fp32", "float32"),
        (r"fp8", "fp8"),
        (r"uint8", "uint8"),
        (r"int8", "int8"),
        (r"int32", "int32"),
        (r"int64", "int64"),
        (r"bool", "bool"),
    ):
        if re.search(rf"\b(?:{pattern})\b", text):
            return str(tensor.get("Name", "")), kind
    return str(tensor.get("Name", "")), text


def require_engine_types(
    engine: Sequence[Layer], network: Sequence[Layer], precision: str, outputs: frozenset[str], what: str
) -> None:
    """Raise unless the built engine computes in the precision that was asked for.

    A layer is in float32 if it reads and writes no other floating type: fused layers that cast within read or write
    float16. It may be if no ONNX node that it was fused from had to be float16, or if it only moves values.

    Args:
        engine: from read_engine.
        network: of the network it was built from.
        precision: "fp32" or "fp16".
        outputs: names of the network's outputs.
        what: the engine's name, for the error.

    Raises:
        ArtefactError: naming the layers.
    """
    if precision == "fp32":
        wrong = [layer for layer in engine if layer.floats - {"float32"}]
    else:
        excused = _excused(network, outputs)
        narrow = {n for x in network if "float16" in x.floats and x.name not in excused for n in x.origins}
        wrong = [
            layer
            for layer in engine
            if layer.floats == {"float32"}
            and layer.kind.lower() not in _MOVES
            and (not layer.origins or narrow & set(layer.origins))
        ]
    if wrong:
        raise _mistyped(wrong, precision, what)
