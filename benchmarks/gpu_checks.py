"""What `make bench-gpu` proves beside speed: parity on a million pairs of a dataset, `predict` from a file, and a soak.

Groups of benchmarks.gpu_speed, which runs them.
"""

from __future__ import annotations

import os
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.file_rate import write_blocks
from bundle import Bundle
from data.dataset import load_split, open_dataset
from errors import MissingComponentError
from infer.block_file import open_blocks
from infer.open import open_session
from infer.parity import compare, judge
from infer.session import SessionOptions
from infer.sessions.device_pipeline import SLOTS
from infer.sessions.fused_session import FusedSession
from infer.sessions.torch_session import TorchSession, open_weights
from infer.stream import predict_stream

SOAK_BLOCKS = 10**9
PARITY_PAIRS = 10**6
FILE_BLOCKS = 20_000_000


class Bench(Protocol):
    """What these need of benchmarks.gpu_speed.Bench."""

    bundle: Bundle

    def inputs(self, batch: int) -> tuple[Tensor, Tensor]: ...

    def row(self, runtime: str, precision: str, batch: int, path: str, **figures: Any) -> None: ...

    def note(self, name: str, figures: dict[str, Any]) -> None: ...


def check_parity(bench: Bench, dataset: Path) -> None:
    """DESIGN's parity of every runtime on labelled pairs of a dataset; the reference is computed on the CPU.

    From PARITY_PAIRS pairs on, every second, third and so on is taken, so that at least that many are left.
    """
    opened = open_dataset(dataset)
    names = sorted({picture.split for picture in opened.pictures})
    splits = [load_split(opened, name, bench.bundle.manifest.task) for name in names]
    stride = max(1, sum(map(len, splits)) // PARITY_PAIRS)
    sessions = {}
    for runtime, precision in (("fused", "fp16"), *product(("onnxruntime-cuda", "aotinductor"), ("fp32", "fp16"))):
        try:
            sessions[runtime, precision] = open_session(bench.bundle, runtime, SessionOptions(precision=precision))
        except MissingComponentError as error:
            bench.note(f"parity {runtime} {precision}", {"left out": error.message})
    reference = TorchSession.of_model(open_weights(bench.bundle)[0], 8)
    expected, found, all_qindex = [], {key: [] for key in sessions}, []  # type: ignore[var-annotated]
    for split in splits:
        step = stride << 16
        for start in range(0, len(split), step):
            print(f"parity: {start:,} of {len(split):,} pairs of a split", flush=True)
            part = slice(start, start + step, stride)
            blocks, qindex = split.blocks[split.block[part]], split.qindex[part]
            expected.append(reference.predict(blocks, qindex).logits)
            all_qindex.append(qindex)
            for key, session in sessions.items():
                found[key].append(session.predict(blocks, qindex).logits)
    for key, parts in found.items():
        report = compare(np.concatenate(expected), np.concatenate(parts), np.concatenate(all_qindex))
        broken = judge(report, key[1])
        figures = {"info": vars(sessions[key].info), "broken": broken, "report": report.to_json()}
        bench.note(f"parity {key[0]} {key[1]}", figures)
        print(f"parity {key[0]} {key[1]}: {report.summary()}; {broken or 'holds'}", flush=True)


def time_predict(bench: Bench) -> None:
    """`predict` of a .npy of 20 million blocks, from the page cache to the result file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blocks.npy"
        write_blocks(path, bench.inputs(1 << 16)[0].numpy(), FILE_BLOCKS)
        session = FusedSession(bench.bundle, SessionOptions(precision="fp16"))
        session.pipeline.slots(session.batch, SLOTS)
        # The second finds the file in the page cache. Another name each time: freeing an old result takes 0.3 s.
        for number in range(2):
            output = Path(folder) / f"out{number}.npz"
            source, task = open_blocks(path), bench.bundle.manifest.task
            summary = predict_stream(source, 128, session, output, lambda *_: None, task)
        bench.row("fused, cli.py predict", "fp16", session.batch, "file", blocks_per_s=summary.blocks / summary.seconds)


def soak(bench: Bench) -> None:
    """A thousand million blocks through one session: the same bits each time, and memory that does not grow."""
    session = FusedSession(bench.bundle, SessionOptions(precision="fp16"))
    slots = session.pipeline.slots(session.batch, SLOTS)
    blocks, qindex = (t.numpy() for t in bench.inputs(session.batch))
    for slot in slots:
        slot.fill(blocks, qindex)
    slots[0].launch()
    first = slots[0].take()
    memory = []
    rounds = -(-SOAK_BLOCKS // session.batch)
    start = time.monotonic()
    for number in range(rounds):
        slot = slots[number % len(slots)]
        slot.wait()
        if number >= len(slots) and number % 97 == 0:
            same = all((getattr(slot, n) == getattr(first, n)).all() for n in ("logits", "probability", "partition"))
            if not same:
                raise RuntimeError(f"other results in batch {number}")
        slot.launch()
        if number % (rounds // 10) == 0:
            memory.append((torch.cuda.memory_reserved() >> 20, resident_mib()))
    for slot in slots:
        slot.wait()
    seconds = time.monotonic() - start
    figures = {"blocks": rounds * session.batch, "seconds": seconds, "reserved_and_resident_mib": memory}
    bench.note("soak", figures)
    print(f"soak: {figures}", flush=True)


def resident_mib() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20
