"""`predict` from a .npy, end to end, beside the session's own rate on the same blocks in memory, in turn.

    python -m benchmarks.file_rate bundles/default --blocks 2000000          (5 minutes on 2 cores)

Each of the rounds predicts an equal part of the blocks both ways, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import open_bundle
from console import error_boundary
from files import write_atomically
from infer.block_file import open_blocks
from infer.open import open_session
from infer.runtimes import RUNTIMES
from infer.session import SessionOptions
from infer.stream import BATCH, predict_stream
from infer.verify import read_reference
from machine import cpu_name

ROUNDS = 5
QINDEX = 128


def write_blocks(path: Path, blocks: NDArray[np.uint8], count: int) -> None:
    """A .npy of `count` blocks: those given, uint8 [N, S, S], again and again."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *blocks.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, len(blocks)):
            file.write(np.ascontiguousarray(blocks[: count - start]).data)
        # What is still to be written to the disk would slow down whoever writes next.
        file.flush()
        os.fsync(file.fileno())


def measure(bundle_dir: Path, runtime: str, precision: str, count: int, folder: Path) -> dict[str, Any]:
    """Blocks a second of `predict` and of the session alone.

    Args:
        bundle_dir: the bundle; its reference blocks are repeated.
        runtime, precision: of the session.
        count: blocks in all rounds together.
        folder: for the file and the result.
    """
    bundle = open_bundle(bundle_dir)
    session = open_session(bundle, runtime, SessionOptions(precision=precision))
    reference = read_reference(bundle)[0]
    blocks = reference[np.arange(BATCH) % len(reference)]
    qindex = np.full(BATCH, QINDEX, np.uint8)
    each = -(-count // ROUNDS)
    write_blocks(folder / "blocks.npy", blocks, each)
    source = open_blocks(folder / "blocks.npy")
    session.predict(blocks, qindex)
    file, own = [], []
    for number in range(ROUNDS):
        start = time.perf_counter()
        for left in range(each, 0, -BATCH):
            session.predict(blocks[:left], qindex[:left])
        own.append(each / (time.perf_counter() - start))
        summary = predict_stream(source, QINDEX, session, folder / "out.npz", lambda *_: None, bundle.manifest.task)
        file.append(summary.blocks / summary.seconds)
        print(f"round {number + 1}: predict {file[-1]:,.0f} blocks/s, the session alone {own[-1]:,.0f}", flush=True)
    return {
        "hardware": cpu_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "session": vars(session.info),
        "blocks": ROUNDS * each,
        "predict_blocks_per_s": file,
        "session_blocks_per_s": own,
        "share": float(np.median(np.array(file) / np.array(own))),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--blocks", type=int, default=2_000_000)
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime-cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--output", type=Path, help="JSON to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.bundle, args.runtime, args.precision, args.blocks, Path(folder))
    print(f"predict runs at {100 * result['share']:.1f} % of the session's own rate")
    if args.output is not None:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    with error_boundary():
        main()
