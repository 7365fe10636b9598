"""Stream blocks through a session into a result file: any N, bounded memory, nothing half-written.

read the next ║ predict ║ write the last           at the same time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from description import BLOCKS, FRAME_1080P, Task
from infer.arrays import require_finite, runtime_errors
from infer.result import result_file
from infer.session import SIZES, Batch, Fill, FlowingSession, Prediction, Session, StreamingSession
from infer.source import BlockSource
from progress import Progress

BATCH = BLOCKS.input.blocks_in(FRAME_1080P)
_BUFFERS = 3  # one that is read, one that waits, one that is worked on


@dataclass(frozen=True)
class Summary:
    """What a prediction came to.

    Attributes:
        blocks: how many were predicted.
        seconds: wall time from the first block read to the file in place.
        counts: how often each partition type is the likeliest, by level, int64 [levels, 10].
        output: the file written.
        note: one more line for people, or nothing.
    """

    blocks: int
    seconds: float
    counts: NDArray[np.int64]
    output: Path
    note: str = ""


class Sink(Protocol):
    """Takes predictions in order.

    Attributes:
        written: blocks so far.
        counts: how often each partition type was the likeliest, by level, int64 [levels, 10].
    """

    written: int
    counts: NDArray[np.int64]

    @property
    def note(self) -> str:
        """One line on what was written, or nothing."""
        ...

    def add(self, prediction: Prediction) -> None:
        """Append the next blocks' results; they are the sink's only until it returns."""
        ...


def predict_stream(
    source: BlockSource,
    qindex: NDArray[np.uint8] | int,
    session: Session,
    output: Path,
    progress: Progress,
    task: Task,
    sink: AbstractContextManager[Sink] | None = None,
) -> Summary:
    """Predict a source, batch after batch, into a result file; reading and writing go on meanwhile.

    Args:
        source: the blocks.
        qindex: one for all, or of every block, uint8 [source.count].
        session: runs them.
        output: the `.npz` to write.
        progress: told after each batch of blocks done and to come; 0 if their number is not known.
        task: what the session answers.
        sink: writes `output` in place of `result_file`.

    Raises:
        OutputError, InputError: as result_file.
        DeviceError: if the runtime failed on the way.
        ArtefactError: if what it gives is no prediction, such as not finite.
    """
    start = time.perf_counter()
    target = sink or result_file(output, task, source.count, source.grid)
    with target as writer, ThreadPoolExecutor(2) as pool:
        done = 0
        for count in _written(session, source, qindex, writer, pool):
            done += count
            progress(done, source.count or 0, f"{done / (time.perf_counter() - start):,.0f} blocks/s")
        counts, written, note = writer.counts, writer.written, writer.note
    return Summary(written, time.perf_counter() - start, counts, output, note)


def _written(
    session: Session,
    source: BlockSource,
    qindex: NDArray[np.uint8] | int,
    writer: Sink,
    pool: ThreadPoolExecutor,
) -> Iterator[int]:
    """Predict and write it all; yields the length of each part."""
    reader = source.reader() if isinstance(session, FlowingSession) and session.dtype == np.uint8 else None
    if reader is not None:
        assert isinstance(session, FlowingSession)
        with reader as read, closing(session.flow(_filler(read, qindex), source.count or session.batch)) as flowing:
            for prediction in _checked(flowing, session):
                writer.add(prediction)
                yield len(prediction.partition)
        return
    size = session.batch if isinstance(session, StreamingSession) else BATCH
    writing: Future[None] | None = None
    predictions = _predictions(session, _batches(_read_ahead(source.chunks(size, _BUFFERS), pool), qindex))
    for prediction in _checked(predictions, session):
        if writing is not None:
            writing.result()
        writing = pool.submit(writer.add, prediction)
        yield len(prediction.partition)
    if writing is not None:
        writing.result()


def _predictions(session: Session, batches: Iterator[Batch]) -> Iterator[Prediction]:
    if isinstance(session, StreamingSession):
        return session.stream(batches)
    return (session.predict(*part) for blocks, qindex in batches for part in _parts(blocks, qindex))


def _parts(blocks: NDArray[np.integer], qindex: NDArray[np.integer] | int) -> Iterator[tuple[NDArray, NDArray]]:
    """A batch in parts between which Ctrl-C is heard, since a frame may have millions of blocks."""
    each = np.broadcast_to(qindex, len(blocks))
    for start in range(0, len(blocks), SIZES[-1]):
        part = slice(start, start + SIZES[-1])
        yield blocks[part], each[part]


def _checked(predictions: Iterator[Prediction], session: Session) -> Iterator[Prediction]:
    """The same, if they are finite; what the runtime raises, such as a CUDA error, becomes a DeviceError."""
    with runtime_errors(session.info):
        for prediction in predictions:
            require_finite(prediction, session.info)
            yield prediction


def _filler(read: Callable[[NDArray[np.integer]], int], qindex: NDArray[np.uint8] | int) -> Fill:
    done = 0

    def fill(blocks: NDArray[np.integer], each: NDArray[np.int32]) -> int:
        nonlocal done
        count = read(blocks)
        each[:count] = qindex if isinstance(qindex, int) else qindex[done : done + count]
        done += count
        return count

    return fill


def _batches(chunks: Iterator[NDArray[np.integer]], qindex: NDArray[np.uint8] | int) -> Iterator[Batch]:
    done = 0
    for blocks in chunks:
        yield blocks, qindex if isinstance(qindex, int) else qindex[done : done + len(blocks)]
        done += len(blocks)


def _read_ahead(chunks: Iterator[NDArray[np.integer]], pool: ThreadPoolExecutor) -> Iterator[NDArray[np.integer]]:
    """The same chunks; while one is worked on, the next is read."""
    end = np.empty(0, np.uint8)
    pending = pool.submit(next, chunks, end)
    while (chunk := pending.result()) is not end:
        pending = pool.submit(next, chunks, end)
        yield chunk
