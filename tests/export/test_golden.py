"""The graphs and weights of models/tiny's files are, to the byte, those that shipped before tasks were described.

Recorded on 29 Nov 2026 from the files that commit c96d3e5, the last before this layout, wrote by

    cli.py export --run models/tiny --fold-bn --precision fp32,fp16,int8

as tests/graph_hash.py hashes them. A change of a pass, of the tracing order or of torch's exporter shows here first: if
the new graph is meant, record it anew and say why in docs/LOG.md.
"""

from __future__ import annotations

import pytest

from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from description import BLOCKS
from export.onnx_int8 import calibrate, quantise_graph, sample_feeds
from export.onnx_writer import build_onnx
from tests.graph_hash import graph_sha256
from train.checkpoint import open_run

RECORDED = {
    ("fp32", "uint8"): "3dffc0b1dc91808dd09916fb8dba7d11cc3e62d6e11047a3a95cb609a125f043",
    ("fp32", "int32"): "c59f9f013243506f27db615b10f5b39edc8277fa317eea1660fd657b351f99c9",
    ("fp16", "uint8"): "78cf6c48f64c72af87a2d738f9bc6b3fca8302d8eac5af35724350b0198dac99",
    ("fp16", "int32"): "26843523c514b358bdd0b4bc4611cccc8e37d63f965c179a4464c44c13402ff9",
    ("int8", "uint8"): "3c93af7ef1c59911f8f6fa563e68ab61f30e54f6a2896bdb47ba3e2a682c239f",
    ("int8", "int32"): "c486bc20654aa75361ff75f25cbace87bb004734b3ca3cc25f88863026890a75",
}
TARGETS = {"fp32": (ONNXRUNTIME_CPU, ""), "fp16": (ONNXRUNTIME_CUDA, ""), "int8": (ONNXRUNTIME_CPU, "gemm")}


@pytest.fixture(scope="module")
def compiled(repo):
    """Factory: models/tiny compiled for a precision's files."""
    model, made = open_run(repo / "models" / "tiny").model.eval(), {}

    def make(precision: str):
        if precision not in made:
            made[precision], _ = compile_model(model, *TARGETS[precision])
        return made[precision]

    return make


@pytest.mark.parametrize(("precision", "form"), RECORDED)
def test_the_graph_and_its_weights_are_what_they_were(compiled, precision, form):
    proto = build_onnx(compiled(precision), form, {"keep": "{}"}, BLOCKS)
    if precision == "int8":
        proto = quantise_graph(proto, calibrate(proto, sample_feeds(form)))
    assert graph_sha256(proto) == RECORDED[precision, form]
    proto.graph.node[0].name += "'"
    assert graph_sha256(proto) != RECORDED[precision, form], "a hash that cannot differ would prove nothing"
