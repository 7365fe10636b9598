"""`cli.py predict`: open the input and the bundle, choose a session, stream, and say what was done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle, open_bundle
from encoder.partition_map import MapFormat
from infer.block_file import read_qindex
from infer.map_writer import MapWriter, map_file
from infer.open import open_session
from infer.parity import ParityReport, compare, require
from infer.session import Session, SessionInfo, SessionOptions
from infer.source import BlockSource
from infer.stream import Summary, predict_stream
from partition import PARTITION_NAMES
from progress import Progress

PARITY_BLOCKS = 4096


@dataclass(frozen=True)
class MapTask:
    """A partition map in place of a .npz.

    Attributes:
        format: of its frames.
        keep: share of true types that the candidates are to keep, one of those that the manifest has thresholds for.
        threshold: a type at least that likely is a candidate, 0-1, in place of the manifest's.
        to_stdout: write frame by frame to standard output, for an encoder at the other end.
    """

    format: MapFormat
    keep: str = "0.98"
    threshold: float | None = None
    to_stdout: bool = False

    def open(self, output: Path, bundle: Bundle) -> AbstractContextManager[MapWriter]:
        """The map's writer.

        Raises:
            UsageError: if the manifest has no threshold of that name.
        """
        threshold = bundle.manifest.threshold(self.keep) if self.threshold is None else self.threshold
        return map_file(output, self.format, threshold, sys.stdout.buffer if self.to_stdout else None)


@dataclass(frozen=True)
class PredictTask:
    """One prediction.

    Attributes:
        bundle: the bundle folder.
        output: the .npz or partition map to write.
        qindex: a number, or the path of a .npy.
        runtime: one of infer.session.RUNTIMES, or "auto".
        precision: "fp32", "fp16" or "int8".
        check_parity: compare the session with PyTorch on the first blocks before predicting.
        map: write a partition map.
    """

    bundle: Path
    output: Path
    qindex: str = "128"
    runtime: str = "auto"
    precision: str = "fp32"
    check_parity: bool = False
    map: MapTask | None = None


@dataclass(frozen=True)
class Outcome:
    """What a prediction came to: stream.Summary, who computed it, and parity if it was asked for."""

    summary: Summary
    session: SessionInfo
    parity: ParityReport | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for --json."""
        summary = self.summary
        return {
            "blocks": summary.blocks,
            "seconds": summary.seconds,
            "blocks_per_s": summary.blocks / summary.seconds,
            "counts": dict(zip(PARTITION_NAMES, summary.counts.tolist(), strict=True)),
            "output": str(summary.output),
            "session": vars(self.session),
            "parity": None if self.parity is None else self.parity.to_json(),
        }


def predict_source(
    source: BlockSource, task: PredictTask, progress: Progress, announce: Callable[[str], None]
) -> Outcome:
    """Predict every block of a source.

    Raises:
        ToolkitError: whatever is wrong with input, bundle, runtime, parity or output; no output file is left then.
    """
    qindex = read_qindex(task.qindex, source.count)
    announce(f"read {source.describe()}")
    bundle = open_bundle(task.bundle)
    source = source.with_border(bundle.manifest.border)
    sink = task.map.open(task.output, bundle) if task.map else None
    session = open_session(bundle, task.runtime, SessionOptions(source.bit_depth, task.precision), announce)
    announce(f"bundle {task.bundle}, {session.info.describe()}")
    parity = _check_parity(task, bundle, session, source, qindex) if task.check_parity else None
    if parity is not None:
        announce(f"parity with PyTorch: {parity.summary()}")
    summary = predict_stream(source, qindex, session, task.output, progress, sink)
    rate = summary.blocks / summary.seconds
    announce(f"wrote {task.output}: {summary.blocks:,} blocks in {summary.seconds:.2f} s, {rate:,.0f} blocks/s")
    announce(_count_line(summary.counts))
    if summary.note:
        announce(summary.note)
    return Outcome(summary, session.info, parity)


def _count_line(counts: NDArray[np.int64]) -> str:
    total = counts.sum()
    return "  ".join(f"{name} {100 * n / total:.1f} %" for name, n in zip(PARTITION_NAMES, counts, strict=True))


def _check_parity(
    task: PredictTask, bundle: Bundle, session: Session, source: BlockSource, qindex: NDArray[np.uint8] | int
) -> ParityReport:
    reference = open_session(bundle, "torch", SessionOptions(source.bit_depth))
    blocks = next(iter(source.chunks(PARITY_BLOCKS)))[:PARITY_BLOCKS]
    q = np.full(len(blocks), qindex, np.uint8) if isinstance(qindex, int) else qindex[: len(blocks)]
    report = compare(reference.predict(blocks, q).logits, session.predict(blocks, q).logits, q)
    require(report, task.precision, session.info.file)
    return report
