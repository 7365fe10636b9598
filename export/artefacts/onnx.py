"""Kind "onnx": the graph in every precision and input form that was asked for."""

from __future__ import annotations

import json

from bundle import TOOLKIT_VERSION
from description import Task
from errors import MissingComponentError, UsageError
from export.artefacts import weights
from export.onnx_int8 import calibrate, quantise_graph, sample_feeds
from export.onnx_writer import FORMS, build_onnx, onnx_bytes
from export.plan import PRECISIONS, ExportTask, Work


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check."""
    if unknown := set(task.precisions) - set(PRECISIONS):
        raise MissingComponentError(
            f"precision {', '.join(sorted(unknown))} cannot be exported", f"{', '.join(PRECISIONS)} can"
        )
    if not task.forms or set(task.forms) - set(FORMS):
        raise UsageError(f"ONNX files take uint8 or int32, not {', '.join(task.forms)}", "--onnx-input uint8,int32")
    if not task.fold and task.precisions != ("fp32",):
        raise UsageError(f"precision {', '.join(task.precisions)} needs a folded model", "add --fold-bn")
    if "int8" not in task.precisions:
        return
    if task.lower == "conv":
        raise UsageError("int8 quantises products, and --lower conv leaves convolutions", "take --lower auto or gemm")
    if not reads.one_node:
        message = f"int8 quantises products, and models of task {reads.name} keep their convolutions"
        raise MissingComponentError(message, "--precision fp32,fp16")


def write(work: Work) -> None:
    """As Writer.write."""
    for precision in work.task.precisions:
        for form in work.task.forms:
            _write(work, precision, form)


def file_name(precision: str, form: str) -> str:
    """Of the file of a precision and input form."""
    return f"model.{precision}.onnx" if form == "uint8" else f"model.{precision}.{form}.onnx"


def _write(work: Work, precision: str, form: str) -> None:
    compiled = work.compiled(precision)
    proto = build_onnx(compiled.model, form, _metadata(work, compiled.steps), work.reads)
    if precision == "int8":
        work.ranges[form] = calibrate(proto, sample_feeds(form, work.reads))
        proto = quantise_graph(proto, work.ranges[form])
    costs = compiled.plain_costs()
    work.add(file_name(precision, form), onnx_bytes(proto), "onnx", precision, form, steps=compiled.steps, cost=costs)


def _metadata(work: Work, steps: tuple[str, ...]) -> dict[str, str]:
    """What a file says of itself, as metadata_props."""
    return {
        "semantics": json.dumps(semantics(work.reads)),
        "task": json.dumps(work.reads.to_json()),
        "model": json.dumps(work.run.model.config.to_json()),
        "keep": json.dumps(work.keep),
        "run_sha256": work.run.sha256,
        "weights_sha256": work.files[weights.FILE].sha256,
        "toolkit": TOOLKIT_VERSION,
        "compile_steps": ",".join(steps),
    }


def semantics(reads: Task) -> dict[str, object]:
    """What goes in and comes out, in words, for the manifest and for each file's metadata."""
    form, side = reads.input, reads.input.side
    around = f" and the {form.border} samples around it" if form.border else ""
    samples = "uint8 (8 bit) or int32 with bit_depth (8, 10, 12)"
    what = f"a {form.unit}x{form.unit} " + ("node" if reads.one_node else "superblock" if form.unit == 64 else "unit")
    said: dict[str, object] = {
        "blocks": f"raw luma samples [N, {side}, {side}], {what} each{around}, {samples}",
        "pixels": "source luma before encoding; frame edges replicate the last row and column",
        "qindex": "int32 [N], 0-255, the frame's base_q_idx",
    }
    for level in reads.levels:
        suffix = reads.suffix(level)
        axes = "N" if reads.one_node else f"N, {reads.nodes_of(level)}"
        order = "" if reads.one_node else ", nodes in raster order"
        ids = "by partition id" if len(level.types) == 10 else f"of {', '.join(p.name for p in level.types)}"
        said |= {
            f"logits{suffix}": {head.name: list(head.classes) for head in level.heads},
            f"probability{suffix}": f"float32 [{axes}, {len(level.types)}], {ids}, rows sum to 1{order}",
            f"partition{suffix}": f"int32 [{axes}], the likeliest partition id{order}",
        }
    return said
