"""Kind "package": the compiled model as a package of PyTorch's own compiler, AOTInductor.

It is machine code that needs torch and no model.

    compiled model ─► torch.export, batch dynamic ─► AOTInductor ─► model.fp32.avx2.aotinductor-2.13.0.pt2

A package is for one PyTorch version and one kind of processor; it takes 8-bit blocks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compiler.graph import PredictorGraph
from description import Task
from errors import MissingComponentError, UsageError
from export.c.task_table import task_table
from export.plan import ExportTask, Work
from infer.sessions.package_record import PackageRecord, local_target, torch_release
from infer.sessions.package_session import exact_float32

FORM = "uint8"
EXAMPLE_BATCH = 64
MAX_BATCH = 1 << 20


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check."""
    if task.package == "none":
        return
    if FORM not in task.forms:
        raise UsageError("a package is of the 8-bit form", "add uint8 to --onnx-input")
    if "int8" in task.precisions:
        raise UsageError("int8 is a precision of ONNX files and blobs alone", "export --package by itself")
    if task.package == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("--package cuda needs a CUDA GPU, and PyTorch sees none", "--package cpu")
    if task.package == "cpu" and set(task.precisions) - {"fp32"}:
        raise MissingComponentError("packages for CPUs are fp32 only", "export fp16 with --package cuda")


def write(work: Work) -> None:
    """As Writer.write: a package of each precision for this machine; a minute each on a CPU."""
    if work.task.package == "none":
        return
    for precision in work.task.precisions:
        work.announce(f"AOTInductor compiles {precision} for this machine's {work.task.package}: about a minute")
        _build(work, precision)


def _build(work: Work, precision: str) -> None:
    """The package of one precision."""
    device, compiled = work.task.package, work.compiled(precision)
    record = PackageRecord("aotinductor", torch_release(), device, local_target(device), work.task.command())
    name = f"model.{precision}.{record.target}.{record.runtime}-{record.version}.pt2"
    content = package_bytes(compiled.model, work.reads, device, work.keep)
    work.add(name, content, "package", precision, FORM, steps=compiled.steps, package=asdict(record))


def package_bytes(compiled: nn.Module, task: Task, device: str, keep: Mapping[str, Any]) -> bytes:
    """A package of a compiled model.

    Args:
        compiled: from compiler.compile.compile_model; it is moved to the device and back.
        task: what it reads and answers.
        device: "cpu" or "cuda".
        keep: thresholds of candidate sets, which a package carries along, by share of true types kept.

    Raises:
        MissingComponentError: if PyTorch's compiler fails here, for want of a C++ compiler for example.
    """
    side = task.input.side
    blocks = torch.zeros(EXAMPLE_BATCH, side, side, dtype=torch.uint8, device=device)
    qindex = torch.zeros(EXAMPLE_BATCH, dtype=torch.int32, device=device)
    # The task as text, and as numbers for the C interface over packages (av1part_torch.cpp).
    about = {f"keep {k}": repr(v) for k, v in keep.items()}
    about |= {"task": json.dumps(task.to_json()), "task table": " ".join(map(str, task_table(task)))}
    count = torch.export.Dim("count", min=1, max=MAX_BATCH)
    try:
        with torch.no_grad(), exact_float32(), tempfile.TemporaryDirectory() as folder:
            graph, dynamic = PredictorGraph(compiled.to(device), task).eval(), ({0: count}, {0: count})
            made = torch._inductor.aoti_compile_and_package(
                torch.export.export(graph, (blocks, qindex), dynamic_shapes=dynamic),
                package_path=str(Path(folder) / "model.pt2"),
                inductor_configs={"aot_inductor.metadata": about},
            )
            return Path(made).read_bytes()
    except Exception as error:  # whatever the compiler, or the compiler behind it, raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingComponentError(
            f"PyTorch's compiler fails: {reason[:200]}", "it needs g++ on a CPU, Triton on a GPU"
        ) from error
    finally:
        compiled.to("cpu")
