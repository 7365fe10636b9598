"""Write a bundle's model as C: the sources, a Makefile, an example, and one blob for each precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle
from compiler.compile import CompiledModel, CompileOptions, compile_model
from description import BLOCKS
from errors import MissingComponentError
from export.c.blob import write_blob
from export.c.int8 import quantise_program, row_ranges
from export.c.ops import Program, logits_of, run_program
from export.c.translate import build_program
from export.certify import sample_pairs
from export.onnx_int8 import sample_feeds
from files import write_atomically
from infer.parity import compare, require
from infer.sessions.torch_session import open_weights, reference_prediction
from progress import Announce
from train.model import ModelConfig, PartitionModel

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


def write_c(bundle: Bundle, target: Path, precisions: tuple[str, ...], announce: Announce) -> list[Path]:
    """Write the C library with a bundle's model into a folder.

    Args:
        bundle: opened; its weights, thresholds and run are what the blobs hold.
        target: the folder; other files in it stay.
        precisions: of PRECISIONS.
        announce: told each program's parity, and what was written.

    Returns:
        The files written.

    Raises:
        MissingComponentError: if the C library has not an operation of the model, or not a precision.
        ParityError: if a program does not compute what the model computes.
        OutputError: if the folder cannot be written.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise MissingComponentError(
            f"the C library has no precision {', '.join(sorted(unknown))}", "fp32 and int8 it has"
        )
    model, _ = open_weights(bundle)
    model.eval()
    plain = build_model_program(model)
    written = []
    for precision in precisions:
        program = plain if precision == "fp32" else quantise_program(plain, row_ranges(plain, _calibration()))
        _check(program, model, precision, announce)
        blob = write_blob(program, BLOCKS, bundle.manifest.metrics.get("keep", {}), bundle.manifest.run_sha256)
        written.append(target / blob_name(precision))
        write_atomically(written[-1], blob)
    for name in SOURCES:
        written.append(target / name)
        write_atomically(written[-1], (SOURCE_DIR / name).read_bytes())
    announce(f"wrote {target}: {', '.join(path.name for path in written)}; make -C {target} builds the library")
    return written


def require_no_border(config: ModelConfig) -> None:
    """Refuse a model that sees a border, before any work begins.

    Raises:
        MissingComponentError: if it does.
    """
    if config.border:
        message = f"the C library reads 16x16 blocks, and the model sees {config.border} samples around them too"
        raise MissingComponentError(message, "leave --c out, or export a run that was trained without --border")


def build_model_program(model: PartitionModel) -> Program:
    """The float32 program of a model in eval mode.

    Raises:
        MissingComponentError: if the model sees a border, or the C library has not one of its operations.
    """
    require_no_border(model.config)
    compiled, _ = compile_model(model, CompileOptions(lower="gemm", rows=True))
    assert isinstance(compiled, CompiledModel)
    return build_program(compiled.core, BLOCKS.input.side**2)  # type: ignore[arg-type]


def rows_of(blocks: NDArray[np.integer]) -> NDArray[np.float32]:
    """8-bit blocks [N, S, S] as a program reads them, float32 [N, S * S]."""
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
    report = compare(expected, made, qindex, label=pairs.label[drawn])
    require(report, "compiled" if precision == "fp32" else "int8", f"the C library's {precision} program")
    announce(f"parity of the C library's {precision} program: {report.summary()}")
