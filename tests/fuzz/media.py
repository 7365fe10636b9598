"""As mutate.py, for the formats of models and of moving pictures: safetensors, ONNX, Y4M, IVF, partition maps."""

from __future__ import annotations

import json
import struct
from random import Random

from tests.fuzz.mutate import LARGE, NUMBERS, change_json, damage, odd_value

FLOATS = (float("nan"), float("inf"), -float("inf"), 3.4e38, 1e-45, 0.0, -1e30)


def safetensors_file(rng: Random, data: bytes) -> bytes:
    """Another header over the same weights, or weights that are no numbers, huge or zero."""
    size = struct.unpack_from("<Q", data)[0]
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    kind = rng.random()
    if kind < 0.25:
        return damage(rng, data, 8 + size)
    if kind < 0.5:
        at = rng.randrange(0, len(body) - 3, 4)
        count = rng.choice((1, 1, 100, 10_000))
        values = struct.pack("<f", rng.choice(FLOATS)) * min(count, (len(body) - at) // 4)
        body[at : at + len(values)] = values
        return data[: 8 + size] + bytes(body)
    if kind < 0.6:  # what the weights say of themselves
        texts = header["__metadata__"]
        key = rng.choice(list(texts))
        inner = json.loads(texts[key]) if texts[key].startswith("{") else texts[key]
        texts[key] = json.dumps(change_json(rng, inner)) if isinstance(inner, dict) else str(odd_value(rng))
    else:
        header = change_json(rng, header)
    text = json.dumps(header).encode()
    length = len(text) if rng.random() < 0.9 else rng.choice((*NUMBERS, *LARGE[:4]))
    return struct.pack("<Q", length) + text + bytes(body)


def onnx_file(rng: Random, data: bytes) -> bytes:
    """A graph with other nodes, attributes, shapes, types or weights, or the protocol buffer itself damaged."""
    import onnx

    if rng.random() < 0.3:
        return damage(rng, data, 4096)
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_ONNX_CHANGES)(rng, model)
    return model.SerializeToString()


def _change_node(rng, model) -> None:
    node = rng.choice(model.graph.node)
    kind = rng.randrange(5)
    if kind == 0:
        node.op_type = rng.choice((*{n.op_type for n in model.graph.node}, "Loop", "If", "Identity", "Nope", ""))
    elif kind == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((*rng.choice(model.graph.node).input, "", "nowhere"))
    elif kind == 2 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice((*node.output, "", "x", "logits", "partition"))
    elif kind == 3:
        node.domain = rng.choice(("ai.onnx", "com.microsoft", "nowhere"))
    else:
        model.graph.node.remove(node)


def _change_attribute(rng, model) -> None:
    attributes = [a for n in model.graph.node for a in n.attribute]
    if not attributes:
        return
    attribute = rng.choice(attributes)
    attribute.i = rng.choice((*NUMBERS, -1, -(2**31), 2**62))
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice((*NUMBERS, -1, 2**62))
    attribute.f = rng.choice(FLOATS)
    attribute.type = rng.choice((attribute.type, attribute.type, rng.randrange(1, 14)))


def _change_weights(rng, model) -> None:
    tensor = rng.choice(model.graph.initializer)
    kind = rng.randrange(5)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((*NUMBERS, *LARGE[:3], -1))
    elif kind == 1:
        tensor.data_type = rng.randrange(0, 22)
    elif kind == 2:
        tensor.raw_data = damage(rng, tensor.raw_data, 64)
    elif kind == 3:
        body = bytearray(tensor.raw_data)
        body[:4] = struct.pack("<f", rng.choice(FLOATS))[: len(body[:4])]
        tensor.raw_data = bytes(body)
    else:
        tensor.name = rng.choice([t.name for t in model.graph.initializer])


def _change_signature(rng, model) -> None:
    value = rng.choice((*model.graph.input, *model.graph.output, *model.graph.value_info))
    kind = rng.randrange(5)
    shape = value.type.tensor_type.shape.dim
    if kind == 0 and shape:
        shape[rng.randrange(len(shape))].dim_value = rng.choice((*NUMBERS, 2**62))
    elif kind == 1:
        value.type.tensor_type.elem_type = rng.randrange(0, 22)
    elif kind == 2:
        value.name = rng.choice(("blocks", "qindex", "logits", "probability", "partition", "", "more"))
    elif kind == 3:
        del model.graph.output[rng.randrange(len(model.graph.output))]
    else:
        model.graph.output.append(value)


def _change_model(rng, model) -> None:
    kind = rng.randrange(3)
    if kind == 0:
        model.ir_version = rng.choice(NUMBERS)
    elif kind == 1 and model.opset_import:
        model.opset_import[0].version = rng.choice(NUMBERS)
    else:
        del model.metadata_props[:]


_ONNX_CHANGES = (_change_node, _change_node, _change_attribute, _change_weights, _change_signature, _change_model)

# --- moving pictures ----------------------------------------------------------------------------------------------

_TAGS = ("W0", "W16", "W17", "W-5", "W1e3", "W", "W" + "9" * 40, "W65536", "W65537", "W 40", "W+40", "W40x", "W٤٠")
_TAGS += ("C444", "C422", "Cmono", "C420p10", "C420p12", "C420p16", "C420paldv", "Cmono12", "C", "C411", "C420alpha")
_TAGS += (
    "It",
    "Ib",
    "Im",
    "I?",
    "I",
    "Ix",
    "F0:0",
    "F0:1",
    "F1:0",
    "F",
    "F25",
    "F-1:1",
    "F" + "9" * 400 + ":1",
    "A0:0",
)
_TAGS += ("XCOLORRANGE=FULL", "X" + "y" * 2000, "X" + "y" * 65536, "Q", "\t", "W16 W48", "\0", "\r", "Xa\0b", "Ip It")


def y4m_file(rng: Random, data: bytes) -> bytes:
    """Other tags in the header, other FRAME lines, frames too many or cut off."""
    if rng.random() < 0.3:
        return damage(rng, data, data.index(b"\n") + 8)
    header, body = data.split(b"\n", 1)
    tags = header.decode("latin-1").split(" ")
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, at = rng.randrange(5), rng.randrange(len(tags))
        if kind == 0 and len(tags) > 1:
            tags.pop(at)
        elif kind == 1:
            tags.insert(at, tags[rng.randrange(len(tags))])
        elif kind == 2:
            tags[at] = rng.choice(_TAGS).replace("W", rng.choice("WH"), 1)
        else:
            tags.insert(rng.randrange(1, len(tags) + 1), rng.choice(_TAGS).replace("W", rng.choice("WH"), 1))
    line = rng.choice(("\n", "\n", "\n", "\n", "\r\n", " \n", "")).join((" ".join(tags), ""))
    marker = b"FRAME\n"
    if rng.random() < 0.3:
        other = rng.choice(
            (b"FRAME Ip\n", b"FRAMES\n", b"FRAME \n", b"frame\n", b"\n", b"FRAME" + b" X" * 40_000 + b"\n")
        )
        body = body.replace(marker, other, rng.choice((1, -1)))
    body = rng.choice(
        (body, body, body, body[:-1], body + b"\n", body + marker, body + body, b"", body[: len(body) // 2])
    )
    return line.encode("utf-8", "replace") + body


def map_file(rng: Random, data: bytes) -> bytes:
    """A partition map with other fields in its header, or other masks."""
    kind = rng.random()
    if kind < 0.25:
        return damage(rng, data, 32)
    out = bytearray(data)
    if kind < 0.7:
        for _ in range(rng.choice((1, 1, 2))):
            at, form = rng.choice(
                (
                    (8, "<H"),
                    (10, "<H"),
                    (12, "<I"),
                    (16, "<I"),
                    (20, "<I"),
                    (24, "<B"),
                    (25, "<B"),
                    (26, "<H"),
                    (28, "<I"),
                )
            )
            value = rng.choice((*NUMBERS, *LARGE[:1], struct.unpack_from(form, out, at)[0] + rng.choice((-1, 1))))
            struct.pack_into(form, out, at, value % (1 << 8 * struct.calcsize(form)))
        return bytes(out)
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(32, len(out) - 1)
        struct.pack_into(
            "<H", out, at, rng.choice((0, 1, 2, 0x3FE, 0x3FF, 0x400, 0x7FF, 0xFFFF, rng.randrange(1 << 10) | 1))
        )
    return bytes(out) + rng.choice((b"", b"", b"\0", b"\0" * 64))


def stream_file(rng: Random, data: bytes) -> bytes:
    """An IVF file: other sizes and fields of header and frames, or other bits of the OBUs' headers and payloads."""
    if rng.random() < 0.4:
        return damage(rng, data, 60)
    out, frames = bytearray(data), []
    at = struct.unpack_from("<H", data, 6)[0]
    while at + 12 <= len(data):
        frames.append(at)
        at += 12 + struct.unpack_from("<I", data, at)[0]
    start = rng.choice(frames)
    kind = rng.randrange(5)
    if kind == 0:
        struct.pack_into("<I", out, start, rng.choice((*NUMBERS, LARGE[0])))
    elif kind == 1:
        struct.pack_into("<H", out, 6, rng.choice((0, 1, 31, 33, 65535)))
    elif kind == 2:
        out[start:start] = out[start : start + rng.choice((12, 13, 100))]
    else:  # OBU headers and sizes lie at the start of a temporal unit, the frame header right behind
        for _ in range(rng.choice((1, 2, 4))):
            place = min(start + 12 + rng.randrange(rng.choice((4, 24, 400))), len(out) - 1)
            out[place] = rng.choice((out[place] ^ 1 << rng.randrange(8), rng.randrange(256), 0xFF, 0x80))
    return bytes(out)
