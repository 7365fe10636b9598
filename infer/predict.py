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
from description import Level, Task
from encoder.partition_map import MapFormat
from infer.block_file import read_qindex
from infer.map_writer import MapWriter, check_task, map_file
from infer.open import open_session
from infer.parity import ParityReport, compare_levels, require
from infer.runtimes import REFERENCE
from infer.session import Session, SessionInfo, SessionOptions
from infer.source import BlockSource
from infer.stream import Summary, predict_stream
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
            UsageError: if the manifest has no threshold of that name, or the model answers what no map holds.
        """
        check_task(bundle.manifest.task)
        threshold = bundle.manifest.threshold(self.keep) if self.threshold is None else self.threshold
        return map_file(output, self.format, threshold, sys.stdout.buffer if self.to_stdout else None)


@dataclass(frozen=True)
class PredictTask:
    """One prediction.

    Attributes:
        bundle: the bundle folder.
        output: the .npz or partition map to write.
        qindex: a number, or the path of a .npy.
        runtime: one of infer.runtimes.RUNTIMES, or "auto".
        precision: "fp32", "fp16" or "int8".
        check_parity: compare the session with PyTorch on the first blocks before predicting.
        map: write a partition map.
        run_code: whether machine code out of the bundle may run; only from whom one trusts.
        verbose: whether to say of each runtime that "auto" passed over why.
    """

    bundle: Path
    output: Path
    qindex: str = "128"
    runtime: str = "auto"
    precision: str = "fp32"
    check_parity: bool = False
    map: MapTask | None = None
    run_code: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a prediction came to.

    Attributes:
        summary: of what was written.
        session: who computed it.
        task: what it answers.
        parity: by the levels' suffixes; None if it was not asked for.
    """

    summary: Summary
    session: SessionInfo
    task: Task
    parity: dict[str, ParityReport] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for --json."""
        summary, one = self.summary, self.task.one_node
        counts = {
            str(level.node_size): {p.name: int(row[p]) for p in level.types}
            for level, row in zip(self.task.levels, summary.counts, strict=True)
        }
        parity = None if self.parity is None else {name: report.to_json() for name, report in self.parity.items()}
        return {
            "blocks": summary.blocks,
            "seconds": summary.seconds,
            "blocks_per_s": summary.blocks / summary.seconds,
            "counts": next(iter(counts.values())) if one else counts,
            "output": str(summary.output),
            "session": vars(self.session),
            "parity": next(iter(parity.values())) if one and parity else parity,
        }


def predict_source(
    source: BlockSource, task: PredictTask, progress: Progress, announce: Callable[[str], None]
) -> Outcome:
    """Predict every block of a source.

    Raises:
        ToolkitError: whatever is wrong with input, bundle, runtime, parity or output; no output file is left then.
    """
    bundle = open_bundle(task.bundle)
    answers = bundle.manifest.task
    source = source.with_form(answers.input)  # of frames, how many blocks there are
    qindex = read_qindex(task.qindex, source.count)
    announce(f"read {source.describe()}")
    sink = task.map.open(task.output, bundle) if task.map else None
    options = SessionOptions(source.bit_depth, task.precision, run_code=task.run_code)
    session = open_session(bundle, task.runtime, options, announce, task.verbose)
    announce(f"bundle {task.bundle}, {session.info.describe()}")
    parity = _check_parity(task, bundle, session, source, qindex) if task.check_parity else None
    for name, report in (parity or {}).items():
        announce(f"parity{name.replace('_', ' of nodes of ')} with PyTorch: {report.summary()}")
    summary = predict_stream(source, qindex, session, task.output, progress, answers, sink)
    rate = summary.blocks / summary.seconds
    announce(f"wrote {task.output}: {summary.blocks:,} blocks in {summary.seconds:.2f} s, {rate:,.0f} blocks/s")
    for level, counts in zip(answers.levels, summary.counts, strict=True):
        announce(("" if answers.one_node else f"nodes of {level.node_size}: ") + _count_line(level, counts))
    if summary.note:
        announce(summary.note)
    return Outcome(summary, session.info, answers, parity)


def _count_line(level: Level, counts: NDArray[np.int64]) -> str:
    total = counts.sum()
    return "  ".join(f"{p.name} {100 * counts[p] / total:.1f} %" for p in level.types)


def _check_parity(
    task: PredictTask, bundle: Bundle, session: Session, source: BlockSource, qindex: NDArray[np.uint8] | int
) -> dict[str, ParityReport]:
    reference = open_session(bundle, REFERENCE, SessionOptions(source.bit_depth))
    blocks = next(iter(source.chunks(PARITY_BLOCKS)))[:PARITY_BLOCKS]
    q = np.full(len(blocks), qindex, np.uint8) if isinstance(qindex, int) else qindex[: len(blocks)]
    expected, found = (each.predict(blocks, q).logits for each in (reference, session))
    reports = compare_levels(expected, found, bundle.manifest.task, q)
    for name, report in reports.items():
        require(report, task.precision, f"{session.info.file}{name}")
    return reports
