"""A model as blobs of the C library; and the library itself: its sources, a Makefile, an example, a bundle's blobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle
from compiler.compile import compile_model
from compiler.passes.scale_rows import RowsScaledModel
from compiler.targets import C
from description import Task
from errors import MissingComponentError
from export.c.blob import write_blob
from export.c.int8 import quantise_program, row_ranges
from export.c.ops import Program, logits_of, run_program
from export.c.translate import build_program
from export.certify import sample_pairs
from export.onnx_int8 import sample_feeds
from files import write_atomically
from infer.parity import compare, require
from infer.sessions.torch_session import reference_prediction
from progress import Announce
from train.model import PartitionModel

SOURCE_DIR = Path(__file__).parent / "source"
SOURCES = (
    *("av1part.h", "av1part_types.h", "av1part_internal.h", "av1part_task.h", "av1part_plane.h", "av1part_kernel.h"),
    *("av1part.c", "av1part_blob.c", "av1part_kernels.c", "av1part_torch.cpp"),
    *("example.c", "Makefile", "README.md"),
)
PRECISIONS = ("fp32", "int8")
CHECKED = 4096
"""Labelled pairs of the embedded sample that a program must agree on before its blob is written."""


def blob_name(precision: str) -> str:
    """File name of a precision's blob."""
    return f"model.{precision}.av1part"


def write_c(bundle: Bundle, target: Path, announce: Announce) -> list[Path]:
    """Write the C library with a bundle's blobs into a folder.

    Args:
        bundle: opened.
        target: the folder; other files in it stay.
        announce: told what was written.

    Returns:
        The files written.

    Raises:
        MissingComponentError: if the bundle holds no blob.
        OutputError: if the folder cannot be written.
    """
    blobs = [name for name, entry in bundle.manifest.files.items() if entry.kind == "blob"]
    if not blobs:
        raise MissingComponentError(f"{bundle.root} holds no blob", "export it again with --blob")
    contents = {name: bundle.path(name).read_bytes() for name in blobs}
    contents |= {name: (SOURCE_DIR / name).read_bytes() for name in SOURCES}
    for name, content in contents.items():
        write_atomically(target / name, content)
    announce(f"wrote {target}: {', '.join(contents)}; make -C {target} builds the library")
    return [target / name for name in contents]


def require_one_node(task: Task) -> None:
    """Refuse a model that the C library cannot run, before any work begins.

    Raises:
        MissingComponentError: if a block is more than one node, or the model sees samples around it.
    """
    if not task.one_node:
        message = f"the C library answers one node a block, and models of task {task.name} answer {task.nodes}"
        raise MissingComponentError(message, "leave --blob and --c out")
    if task.input.border:
        size = f"{task.input.unit}x{task.input.unit}"
        message = f"the C library reads {size} blocks, and the model sees {task.input.border} samples around them too"
        raise MissingComponentError(message, "leave --blob and --c out, or export a run trained without --border")


def make_blob(
    model: PartitionModel, precision: str, keep: Mapping[str, float], run_sha256: str, announce: Announce
) -> bytes:
    """A model as a blob of the C library.

    Args:
        model: in eval mode.
        precision: of PRECISIONS.
        keep: thresholds of candidate sets, by share of true types kept.
        run_sha256: of the run that it is of.
        announce: told the program's parity.

    Raises:
        MissingComponentError: if the C library has not an operation of the model.
        ParityError: if the program does not compute what the model computes.
    """
    program = build_model_program(model)
    if precision == "int8":
        program = quantise_program(program, row_ranges(program, _calibration()))
    _check(program, model, precision, announce)
    return write_blob(program, model.config.task, keep, run_sha256)


def build_model_program(model: PartitionModel) -> Program:
    """The float32 program of a model in eval mode.

    Raises:
        MissingComponentError: if the C library has not its input, or one of its operations.
    """
    require_one_node(model.config.task)
    compiled, _ = compile_model(model, C)
    assert isinstance(compiled, RowsScaledModel)
    return build_program(compiled.core, model.config.form.side**2)  # type: ignore[arg-type]


def rows_of(blocks: NDArray[np.integer]) -> NDArray[np.float32]:
    """Blocks [N, S, S] as a program reads them, float32 [N, S * S]."""
    return blocks.reshape(len(blocks), -1).astype(np.float32)


def _calibration() -> Iterator[tuple[NDArray[np.float32], NDArray[np.integer]]]:
    for feed in sample_feeds("uint8"):
        yield rows_of(feed["blocks"]), feed["qindex"]


def _check(program: Program, model: PartitionModel, precision: str, announce: Announce) -> None:
    """Hold a program, run in numpy, against the reference on pairs drawn from the embedded sample."""
    pairs = sample_pairs()
    drawn = np.random.default_rng(1).permutation(len(pairs.block))[:CHECKED]
    blocks, qindex = pairs.blocks[pairs.block[drawn]], pairs.qindex[drawn]
    made = logits_of(program, run_program(program, rows_of(blocks), qindex))
    expected = reference_prediction(model, blocks, qindex, 8).logits
    report = compare(expected, made, qindex, label=pairs.label[drawn, 0])
    require(report, "compiled" if precision == "fp32" else "int8", f"the C library's {precision} program")
    announce(f"parity of the C library's {precision} program: {report.summary()}")
