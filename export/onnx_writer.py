"""Write a model as ONNX: dynamic batch, checked, with its semantics in metadata_props.

torch's own optimiser is left off (`optimize=False`): it fuses BatchNorm by itself and would hide what our fold does.
Only constants are folded here: torch writes every shape and axis as nodes, and TensorRT refuses an axis that is one.
What torch notes of where each node came from is dropped: paths of this machine, and a count of graphs traced so far,
so that the same model would not give the same file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnxscript import optimizer
from torch import nn

from compiler.graph import HighBitDepthGraph, PredictorGraph
from description import Task

OPSET = 18
FORMS = ("uint8", "int32")
"""Input forms: of 8-bit blocks, and of blocks of any bit depth with a scalar input for it."""
TRACE_BATCH = 4


def build_onnx(model: nn.Module, input_form: str, metadata: dict[str, str], task: Task) -> onnx.ModelProto:
    """The ONNX graph of a model in eval mode.

    Args:
        model: gives logits [N, task.logits] from (blocks, qindex[, bit_depth]).
        input_form: of FORMS.
        metadata: metadata_props of the file.
        task: what the model reads and answers.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: if the writer made an invalid graph.
    """
    batch = torch.export.Dim("N", min=1, max=1 << 24)
    dynamic: dict[str, dict[int, torch.export.Dim]] = {"blocks": {0: batch}, "qindex": {0: batch}}
    qindex, side = torch.arange(TRACE_BATCH, dtype=torch.int32), task.input.side
    if input_form == "uint8":
        graph: PredictorGraph = PredictorGraph(model, task)
        arguments: tuple[torch.Tensor, ...] = (torch.zeros(TRACE_BATCH, side, side, dtype=torch.uint8), qindex)
    else:
        graph = HighBitDepthGraph(model, task)
        blocks = torch.zeros(TRACE_BATCH, side, side, dtype=torch.int32)
        arguments = (blocks, qindex, torch.tensor(8, dtype=torch.int32))
        dynamic["bit_depth"] = {}
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            arguments,
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            input_names=["blocks", "qindex", "bit_depth"][: len(arguments)],
            output_names=list(task.output_names),
            verbose=False,
        )
        assert program is not None
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()
    proto = program.model_proto
    # Older runtimes refuse a newer one, of which the graph uses nothing.
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    onnx.helper.set_model_props(proto, metadata)
    check(proto)
    return proto


def check(proto: onnx.ModelProto) -> None:
    """ONNX's own checker, and shape inference in strict mode.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: for an invalid graph.
    """
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def onnx_bytes(proto: onnx.ModelProto) -> bytes:
    """The file."""
    return proto.SerializeToString(deterministic=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on stdout and warns of its own internals; errors still come as exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
