"""onnx_data.py beside the onnx package: every place where a tensor may say that its data lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_data import keeps_data_elsewhere


def ask(content: bytes, tmp_path: Path) -> bool:
    (tmp_path / "model.onnx").write_bytes(content)
    with (tmp_path / "model.onnx").open("rb") as file:
        return keeps_data_elsewhere(file)


def tensor(outside: bool) -> TensorProto:
    made = numpy_helper.from_array(np.arange(6, dtype=np.float32), "w")
    if outside:
        onnx.external_data_helper.set_external_data(made, "weights.bin", 0, 24)
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
    return made


def sparse(outside: bool):
    indices = numpy_helper.from_array(np.arange(6), "i")
    return helper.make_sparse_tensor(tensor(outside), indices, [9])


def model(nodes=(), initializers=(), sparse_initializers=()):
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers))
    graph.sparse_initializer.extend(sparse_initializers)
    return helper.make_model(graph)


def constant(outside: bool, **attributes):
    return helper.make_node("Constant", [], ["c"], **(attributes or {"value": tensor(outside)}))


def branch(outside: bool):
    inner = helper.make_graph([constant(outside)], "then", [], [])
    return helper.make_node("If", ["x"], ["y"], then_branch=inner)


def function(outside: bool):
    made = model()
    opset = [helper.make_opsetid("", 18)]
    made.functions.append(helper.make_function("ours", "F", [], ["c"], [constant(outside)], opset))
    return made


def training(outside: bool):
    made = model()
    made.training_info.add().algorithm.CopyFrom(model([], [tensor(outside)]).graph)
    return made


PLACES = {
    "initialiser": lambda outside: model([], [tensor(outside)]),
    "sparse initialiser": lambda outside: model([], [], [sparse(outside)]),
    "constant": lambda outside: model([constant(outside)]),
    "list of tensors": lambda outside: model(
        [helper.make_node("X", [], ["c"], values=[tensor(False), tensor(outside)])]
    ),
    "sparse constant": lambda outside: model([constant(outside, sparse_value=sparse(outside))]),
    "branch": lambda outside: model([branch(outside)]),
    "function": function,
    "training": training,
}


@pytest.mark.parametrize("place", PLACES)
def test_data_elsewhere_are_found_wherever_they_are_named(place, tmp_path):
    assert ask(PLACES[place](True).SerializeToString(), tmp_path)
    assert not ask(PLACES[place](False).SerializeToString(), tmp_path)


def test_a_file_of_ours_keeps_all_within_itself(repo):
    for path in sorted((repo / "models").glob("*/*.onnx"))[:3]:
        with path.open("rb") as file:
            assert not keeps_data_elsewhere(file)


def test_each_of_the_two_fields_alone_is_enough(tmp_path):
    location, name = tensor(True), tensor(True)
    location.ClearField("external_data")
    name.ClearField("data_location")
    for one in (location, name):
        assert ask(model([], [one]).SerializeToString(), tmp_path)


def nested(depth: int) -> bytes:
    """A graph within an attribute within a node within a graph, and so on, each a length-delimited field."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while True:
            length += bytes([(size & 0x7F) | (0x80 if size > 0x7F else 0)])
            size >>= 7
            if not size:
                return bytes([number << 3 | 2]) + length + content

    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))
    return field(7, content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x77eights",  # wire type 7
        b"\x3b\x3c",  # a group, which ONNX has none of
        b"\x3a\x05ab",  # a graph that ends beyond the file
        b"\x08",  # a number that is not there
        b"\x08" + b"\xff" * 11,  # a number without end
        b"\x3a\x01\x2a",  # a graph whose initialiser has no length
        nested(100),
    ],
)
def test_what_is_no_protocol_buffer_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match=r"it ends too early|it is damaged|too deep"):
        ask(content, tmp_path)


def test_every_truncation_of_a_small_model_is_refused_or_harmless(tmp_path):
    whole = model([constant(False)], [tensor(False)]).SerializeToString()
    refused = 0
    for size in range(len(whole)):
        try:
            assert not ask(whole[:size], tmp_path)
        except ValueError:
            refused += 1
    assert refused > len(whole) // 2
