"""Whether two ONNX files compute by the same graph and weights, whatever else they say of themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx


def graph_sha256(file: Path | onnx.ModelProto) -> str:
    """SHA-256, hex, of a model's graph, its initialisers among it, and its opsets: without metadata_props, IR version
    and what tool wrote it."""
    proto = file if isinstance(file, onnx.ModelProto) else onnx.load(file)
    digest = hashlib.sha256()
    for opset in sorted(proto.opset_import, key=lambda each: each.domain):
        digest.update(f"{opset.domain} {opset.version}\n".encode())
    digest.update(proto.graph.SerializeToString(deterministic=True))
    return digest.hexdigest()
