"""The compiled model as a package of PyTorch's own compiler, AOTInductor: machine code that needs torch and no model.

    compiled model ─► torch.export, batch dynamic ─► AOTInductor ─► model.fp32.avx2.aotinductor-2.13.0.pt2

A package is for one PyTorch version and one kind of processor; it takes 8-bit blocks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from bundle import BundleFile
from compiler.graph import PredictorGraph
from description import BLOCKS, BLOCKS_IN_CONTEXT, Task
from errors import MissingComponentError
from export.c.task_table import task_table
from files import sha256_of, write_atomically
from infer.sessions.package_record import PackageRecord, local_target, torch_release
from infer.sessions.package_session import exact_float32
from partition import NODE_SIZE

EXAMPLE_BATCH = 64
MAX_BATCH = 1 << 20


def check_package_device(device: str, precisions: tuple[str, ...]) -> None:
    """Refuse what cannot be built, before any work begins.

    Args:
        device: "cpu" or "cuda".
        precisions: of the packages.

    Raises:
        MissingComponentError: for "cuda" without a GPU, and for fp16 on a CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("--package cuda needs a CUDA GPU, and PyTorch sees none", "--package cpu")
    if device == "cpu" and set(precisions) - {"fp32"}:
        raise MissingComponentError("packages for CPUs are fp32 only", "export fp16 with --package cuda")


def build_package(
    root: Path,
    compiled: nn.Module,
    precision: str,
    steps: tuple[str, ...],
    device: str,
    command: str,
    keep: Mapping[str, float] | None = None,
    side: int = NODE_SIZE,
) -> dict[str, BundleFile]:
    """Build the package of one precision for this machine; a minute on a CPU.

    Args:
        root: the bundle folder.
        compiled: from compiler.compile.compile_model; it is moved to the device and back.
        precision: "fp32" or "fp16".
        steps: compile steps that made it.
        device: "cpu" or "cuda".
        command: the command line that builds it again.
        keep: the manifest's thresholds, which a package carries along for the C interface (av1part_torch.cpp).
        side: of the blocks, in samples.

    Returns:
        The file and its manifest entry.

    Raises:
        MissingComponentError: if PyTorch's compiler fails here, for want of a C++ compiler for example.
    """
    record = PackageRecord("aotinductor", torch_release(), device, local_target(device), command)
    name = f"model.{precision}.{record.target}.{record.runtime}-{record.version}.pt2"
    blocks = torch.zeros(EXAMPLE_BATCH, side, side, dtype=torch.uint8, device=device)
    qindex = torch.zeros(EXAMPLE_BATCH, dtype=torch.int32, device=device)
    about = {f"keep {k}": repr(v) for k, v in (keep or {}).items()} | _about(
        BLOCKS if side == NODE_SIZE else BLOCKS_IN_CONTEXT
    )
    count = torch.export.Dim("count", min=1, max=MAX_BATCH)
    try:
        with torch.no_grad(), exact_float32(), tempfile.TemporaryDirectory() as folder:
            program = torch.export.export(
                PredictorGraph(compiled.to(device)).eval(), (blocks, qindex), dynamic_shapes=({0: count}, {0: count})
            )
            made = torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(Path(folder) / "model.pt2"),
                inductor_configs={"aot_inductor.metadata": about},
            )
            write_atomically(root / name, Path(made).read_bytes())
    except Exception as error:  # whatever the compiler, or the compiler behind it, raises
        raise MissingComponentError(
            f"PyTorch's compiler fails: {str(error).splitlines()[0][:200]}", "it needs g++ on a CPU, Triton on a GPU"
        ) from error
    finally:
        compiled.to("cpu")
    digest = sha256_of(root / name)
    return {name: BundleFile(digest, "package", precision, "uint8", steps, package=asdict(record))}


def _about(task: Task) -> dict[str, str]:
    """A package's metadata: the task as text, and as numbers for the C interface."""
    return {"task": json.dumps(task.to_json()), "task table": " ".join(map(str, task_table(task)))}
