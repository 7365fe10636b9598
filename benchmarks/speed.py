"""Speed of a bundle's runtimes beside PyTorch eager of the unfolded model: one run, the same blocks, in turn.

    python cli.py bench bundles/default

On a shared machine only ratios within one run mean anything: every round times each runtime once, so that whatever else
the machine does falls on all of them alike.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle, open_bundle
from description import BLOCKS, FRAME_4K, FRAME_1080P
from errors import MissingComponentError, UntrustedCodeError
from files import write_atomically
from infer.open import open_session
from infer.runtimes import REFERENCE, cpu_rows
from infer.session import Prediction, Session, SessionOptions
from infer.verify import read_reference
from machine import cpu_name

ROUNDS = 7
RESULTS = Path(__file__).resolve().parent / "results"
FRAMES = {"1080p": FRAME_1080P, "4K": FRAME_4K}
BLOCKS_OF = {name: BLOCKS.input.blocks_in(frame) for name, frame in FRAMES.items()}
"""How many 16x16 blocks a frame has."""


def matmul_ceiling(size: int = 2048, rounds: int = 5) -> float:
    """Best rate of a float32 matrix product on this CPU, in TFLOP/s (1 multiply-add = 2 FLOP)."""
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    best = min(_seconds(lambda: a @ a) for _ in range(rounds))
    return 2.0 * size**3 / best / 1e12


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _sessions(bundle: Bundle, announce: Callable[[str], None]) -> dict[tuple[str, str], Session]:
    sessions: dict[tuple[str, str], Session] = {}
    for runtime, precision in sorted(cpu_rows(), key=lambda row: row[0] != REFERENCE):
        try:
            session = open_session(bundle, runtime, SessionOptions(precision=precision))
        except (MissingComponentError, UntrustedCodeError) as error:
            announce(f"left out {runtime} {precision}: {error.message}")
            continue
        announce(f"runs {session.info.describe()}")
        sessions[runtime, precision] = session
    if not sessions:
        raise MissingComponentError("no runtime can run this bundle here", "pip install onnxruntime, torch")
    return sessions


def run_benchmark(
    bundle_dir: Path, batches: tuple[int, ...], output: Path | None, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Time every runtime that runs here at every batch size, host to host.

    Args:
        bundle_dir: the bundle; its reference blocks, repeated, are what is predicted.
        batches: blocks in one call; none takes those of a 1080p frame.
        output: where to write the result as JSON; None: into RESULTS, under a name of hardware and month.
        announce: told the table.

    Returns:
        docs/DESIGN.md's bench object; each row also has `ratio`, its speed over PyTorch eager of the unfolded model.

    Raises:
        ToolkitError: if the bundle does not open or run here, or the result cannot be written.
    """
    bundle = open_bundle(bundle_dir)
    blocks, qindex, _ = read_reference(bundle)
    announce(f"read {bundle_dir}: {len(blocks):,} reference blocks, repeated to fill a batch")
    sessions = _sessions(bundle, announce)
    rows = []
    announce(f"{'runtime':20}{'precision':>10}{'batch':>9}{'blocks/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'x eager':>9}")
    for batch in batches or (bundle.manifest.task.input.blocks_in(FRAME_1080P),):
        times = _measure(sessions, *_repeated(blocks, qindex, batch))
        eager = float(np.median(times[REFERENCE, "fp32"])) if (REFERENCE, "fp32") in times else None
        for (runtime, precision), seconds in times.items():
            rows.append(_row(runtime, precision, batch, seconds, eager))
            announce(_line(rows[-1]))
    hardware, date = cpu_name(), datetime.now(UTC).date().isoformat()
    result = {
        "hardware": hardware,
        "date": date,
        "versions": bundle.manifest.versions,
        "ceiling": {"matmul_tflops": matmul_ceiling(), "h2d_gbps": None},
        "model": bundle.manifest.model | {"run_sha256": bundle.manifest.run_sha256},
        "rows": rows,
    }
    path = output or RESULTS / result_name(hardware, date)
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    announce(f"wrote {path}")
    return result


def result_name(hardware: str, date: str, what: str = "speed") -> str:
    """Of a result file: what was measured, hardware and month."""
    slug = re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")
    return f"{what}_{slug}_{date[:7].replace('-', '')}.json"


def _repeated(
    blocks: NDArray[np.uint8], qindex: NDArray[np.uint8], batch: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    index = np.arange(batch) % len(blocks)
    return blocks[index], qindex[index]


def _measure(
    sessions: dict[tuple[str, str], Session], blocks: NDArray[np.uint8], qindex: NDArray[np.uint8]
) -> dict[tuple[str, str], NDArray[np.float64]]:
    def call(session: Session) -> Prediction:
        return session.predict(blocks, qindex)

    times: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
    for round_ in range(ROUNDS + 1):
        for key, session in sessions.items():
            seconds = _seconds(lambda session=session: call(session))  # type: ignore[misc]
            if round_:  # the first call warms up
                times[key].append(seconds)
    return {key: np.array(values) for key, values in times.items()}


def _row(runtime: str, precision: str, batch: int, seconds: NDArray[np.float64], eager: float | None) -> dict[str, Any]:
    p50 = float(np.median(seconds))
    return {
        "runtime": runtime,
        "precision": precision,
        "batch": batch,
        "path": "host",
        "blocks_per_s": batch / p50,
        "p50_ms": 1e3 * p50,
        "p99_ms": 1e3 * float(np.percentile(seconds, 99)),
        "tflops": None,
        "ratio": None if eager is None else eager / p50,
    }


def _line(row: dict[str, Any]) -> str:
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return (
        f"{row['runtime']:20}{row['precision']:>10}{row['batch']:>9,}{row['blocks_per_s']:>12,.0f}"
        f"{row['p50_ms']:>10.1f}{row['p99_ms']:>10.1f}{ratio:>9}"
    )
