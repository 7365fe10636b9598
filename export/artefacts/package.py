"""Kind "package": the compiled model as a package of PyTorch's own compiler, AOTInductor.

It is machine code that needs torch and no model.

    compiled model ─► torch.export, batch dynamic ─► AOTInductor ─► model.fp32.avx2.aotinductor-2.13.0.pt2

A package is for one PyTorch version and one kind of processor; it takes 8-bit blocks.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from compiler.graph import PredictorGraph
from description import Task
from errors import MissingComponentError, UsageError
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
    """The package of one precision.

    Raises:
        MissingComponentError: if PyTorch's compiler fails here, for want of a C++ compiler for example.
    """
    device, side, model = work.task.package, work.reads.input.side, work.compiled(precision).model
    record = PackageRecord("aotinductor", torch_release(), device, local_target(device), work.task.command())
    name = f"model.{precision}.{record.target}.{record.runtime}-{record.version}.pt2"
    blocks = torch.zeros(EXAMPLE_BATCH, side, side, dtype=torch.uint8, device=device)
    qindex = torch.zeros(EXAMPLE_BATCH, dtype=torch.int32, device=device)
    # What the C interface over packages (av1part_torch.cpp) reads, and what everybody else may.
    about = {f"keep {k}": repr(v) for k, v in work.keep.items()}
    about |= {"side": str(side), "task": json.dumps(work.reads.to_json())}
    count = torch.export.Dim("count", min=1, max=MAX_BATCH)
    try:
        with torch.no_grad(), exact_float32(), tempfile.TemporaryDirectory() as folder:
            program = torch.export.export(
                PredictorGraph(model.to(device), work.reads).eval(),
                (blocks, qindex),
                dynamic_shapes=({0: count}, {0: count}),
            )
            made = torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(Path(folder) / "model.pt2"),
                inductor_configs={"aot_inductor.metadata": about},
            )
            content = Path(made).read_bytes()
    except Exception as error:  # whatever the compiler, or the compiler behind it, raises
        raise MissingComponentError(
            f"PyTorch's compiler fails: {str(error).splitlines()[0][:200]}", "it needs g++ on a CPU, Triton on a GPU"
        ) from error
    finally:
        model.to("cpu")
    steps = work.compiled(precision).steps
    work.add(name, content, "package", precision, FORM, steps=steps, package=asdict(record))
