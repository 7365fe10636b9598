"""export/engine_types.py: the rules by which float32 may stand in an fp16 engine, on networks drawn by hand.

Real parsed networks are in test_engines.py."""

import copy
import json

import pytest

from errors import ArtefactError
from export.engine_types import (
    Layer,
    read_engine,
    read_network,
    require_engine_types,
    require_types,
    type_counts,
    wrong_layers,
)
from tests.tensorrt_stub import INSPECTED, PARSED, INetworkDefinition

OUTPUTS = frozenset({"logits", "probability", "partition"})
F, H, I8, I32 = "float32", "float16", "uint8", "int32"


def layer(text):
    """A layer from "name kind: read/type read/type > written/type"."""
    head, _, tensors = text.partition(": ")
    read, _, written = tensors.partition(">")
    sides = [tuple(tuple(t.split("/")) for t in side.split()) for side in (read, written)]
    return Layer(*head.split(), *sides, origins=(head.split()[0],))


GOOD = [
    "samples CAST: blocks/int32 > s/float32",
    "depth CONSTANT: > d/float32",
    "scale ELEMENTWISE: s/float32 d/float32 > t/float32",
    "in CAST: t/float32 > x/float16",
    "w CONSTANT: > w/float16",
    "table GATHER: w/float16 qindex/int32 > g/float16",
    "product MATRIX_MULTIPLY: x/float16 w/float16 > y/float16",
    "relu ACTIVATION: y/float16 > r/float16",
    "up CAST: r/float16 > u/float32",
    "max REDUCE: u/float32 > m/float32",
    "down CAST: m/float32 > n/float16",
    "second MATRIX_MULTIPLY: n/float16 w/float16 > z/float16",
    "out CAST: z/float16 > logits/float32",
    "softmax SOFTMAX: logits/float32 > p/float32",
    "chain ELEMENTWISE: p/float32 d/float32 > probability/float32",
    "top TOPK: probability/float32 > v/float32 partition/int32",
]


def network(*changes):
    """GOOD with layers replaced, or added before `out`, by name."""
    texts = {text.split()[0]: text for text in GOOD}
    before = list(texts)
    for change in changes:
        texts[change.split()[0]] = change
    added = [n for n in texts if n not in before]
    at = before.index("out")
    return [layer(texts[n]) for n in (*before[:at], *added, *before[at:])]


def test_what_the_rules_excuse_passes():
    assert wrong_layers(network(), "fp16", OUTPUTS) == []
    require_types(network(), "fp16", OUTPUTS, "the engine")


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        # a product in float32 is excused by no rule: not before, not after, not between casts
        (["product MATRIX_MULTIPLY: t/float32 d/float32 > y/float16"], ["product"]),
        (["late MATRIX_MULTIPLY: logits/float32 d/float32 > l/float32"], ["late"]),
        (["conv CONVOLUTION: x/float16 w/float32 > c/float16"], ["conv"]),
        (["up2 CAST: z/float16 > a/float32", "mm EINSUM: a/float32 > b/float32"], ["up2", "mm"]),
        # an island of float32 behind the first product
        (
            [
                "up2 CAST: z/float16 > a/float32",
                "relu2 ACTIVATION: a/float32 > b/float32",
                "d2 CAST: b/float32 > c/float16",
            ],
            ["up2", "relu2"],
        ),
        # a cast up, or a reduction, that something else reads in float32 as well
        (["relu2 ACTIVATION: u/float32 > q/float32"], ["up", "relu2"]),
        (["relu2 ACTIVATION: m/float32 > q/float32"], ["up", "max", "relu2"]),
        # a reduction that is not cast down again
        (["up2 CAST: z/float16 > a/float32", "sum REDUCE: a/float32 > b/float32"], ["up2", "sum"]),
        # an output that is computed from something else in float32 as well
        (
            ["up2 CAST: z/float16 > a/float32", "chain ELEMENTWISE: p/float32 a/float32 > probability/float32"],
            ["up2", "chain", "top"],
        ),
        # another narrow type
        (["relu ACTIVATION: y/bfloat16 > r/float16"], ["relu"]),
    ],
)
def test_float32_elsewhere_is_found(changes, wrong):
    found = [w.name for w in wrong_layers(network(*changes), "fp16", OUTPUTS)]
    assert set(found) == set(wrong)
    with pytest.raises(ArtefactError, match=wrong[0]):
        require_types(network(*changes), "fp16", OUTPUTS, "the engine")


def in_float32(layers):
    return [layer(f"{x.name} {x.kind}: {_words(x.inputs)} > {_words(x.outputs)}") for x in layers]


def _words(tensors):
    return " ".join(f"{name}/{F if kind == H else kind}" for name, kind in tensors)


def test_a_float32_network_is_no_fp16_engine_and_says_which_layers_and_how_many():
    with pytest.raises(ArtefactError) as error:
        require_types(in_float32(network()), "fp16", OUTPUTS, "model.fp16.engine")
    message = error.value.message
    assert message.startswith("model.fp16.engine was to be fp16, but of its layers ")
    assert "product (MATRIX_MULTIPLY float32)" in message and "relu (ACTIVATION float32)" in message
    assert "--precision" in error.value.hint and error.value.exit_code == 6


def test_an_fp32_engine_holds_nothing_narrower():
    assert wrong_layers(in_float32(network()), "fp32", OUTPUTS) == []
    found = {w.name for w in wrong_layers(network(), "fp32", OUTPUTS)}
    assert found == {"in", "w", "table", "product", "relu", "up", "down", "second", "out"}


def test_many_wrong_layers_are_counted_not_listed():
    texts = [f"extra{i} ACTIVATION: z/float16 > e{i}/float32" for i in range(40)]
    with pytest.raises(ArtefactError, match=r"of its layers 40 are not: extra0 .*, extra4 .* and 35 more"):
        require_types(network(*texts), "fp16", OUTPUTS, "the engine")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_network_without_a_product_is_none_of_ours(precision):
    with pytest.raises(ArtefactError, match="no product"):
        require_types([layer("top TOPK: qindex/int32 > partition/int32")], precision, OUTPUTS, "the engine")


def test_a_parsed_network_is_read_layer_by_layer():
    layers = read_network(INetworkDefinition(PARSED))
    assert [(x.name, x.kind) for x in layers] == [(name, kind) for name, kind, *_ in PARSED]
    assert layers[2] == Layer("product", "MATRIX_MULTIPLY", (("x", H), ("w", H)), (("y", H),), ("product",))
    assert wrong_layers(layers, "fp16", OUTPUTS) == []
    assert type_counts(layers)["MATRIX_MULTIPLY float16"] == 1 and sum(type_counts(layers).values()) == len(PARSED)


# --- the built engine -------------------------------------------------------------------------------------------------


def check(inspected, precision="fp16"):
    require_engine_types(
        read_engine(json.dumps(inspected)), read_network(INetworkDefinition(PARSED)), precision, OUTPUTS, "the engine"
    )


def edited(index, **values):
    inspected = copy.deepcopy(INSPECTED)
    inspected["Layers"][index] |= values
    return inspected


def as_tensorrt_11(inspected):
    """The same in the words of TensorRT 11."""
    made = copy.deepcopy(inspected)
    for each in made["Layers"]:
        for tensor in (*each["Inputs"], *each["Outputs"]):
            tensor |= {"DataType": tensor.pop("Format/Datatype"), "Format": "Row major linear format (kLINEAR)"}
    return made


@pytest.mark.parametrize("words", [copy.deepcopy, as_tensorrt_11])
def test_a_fused_layer_may_cast_and_what_follows_the_logits_may_be_float32(words):
    check(words(INSPECTED))


@pytest.mark.parametrize("words", [copy.deepcopy, as_tensorrt_11])
@pytest.mark.parametrize(
    "metadata", ["[ONNX Layer: product]", "[ONNX Layer: softmax]\x1f[ONNX Layer: product]", ""], ids=range(3)
)
def test_a_float32_layer_made_of_float16_nodes_is_found(words, metadata):
    with pytest.raises(ArtefactError, match="__myl_Softmax"):
        check(words(edited(1, Metadata=metadata)))


def test_copies_compute_nothing():
    check(edited(1, Metadata="", LayerType="Reformat"))


def test_an_fp32_engine_that_was_built_narrower_is_found():
    with pytest.raises(ArtefactError, match=r"was to be fp32.*__myl_CastGemm"):
        check(INSPECTED, "fp32")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Half", H),
        ("Row major linear FP16 format (kLINEAR)", H),
        ("Two wide channel vectorized row major FP16 format", H),
        ("Float", F),
        ("Row major linear FP32", F),
        ("BFloat16", "bfloat16"),
        ("Int8", "int8"),
        ("UInt8", I8),
        ("Int32", I32),
        ("Row major Int64 format", "int64"),
        ("Bool", "bool"),
    ],
)
@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_types_are_read_in_all_their_spellings(words, kind, key):
    text = json.dumps({"Layers": [{"Name": "a", "Inputs": [{"Name": "x", key: words}]}]})
    assert read_engine(text)[0].inputs == (("x", kind),)


@pytest.mark.parametrize("text", ["", "{}", '{"Layers": ["only", "names"]}', '{"Layers": [{}]}', "[1]"])
def test_an_answer_that_cannot_be_read_is_an_error_not_a_pass(text):
    with pytest.raises(ArtefactError, match="inspector"):
        read_engine(text)
