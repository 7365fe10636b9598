"""Stream blocks through a session into a result file: any N, bounded memory, nothing half-written.

read the next ║ predict ║ write the last           at the same time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
<<<<<<< HEAD
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
=======
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
>>>>>>> enc

import numpy as np
from numpy.typing import NDArray

from errors import DeviceError
from infer.result import ResultWriter, result_file
from infer.session import Batch, Fill, FlowingSession, Prediction, Session, StreamingSession
from infer.source import BlockSource

BATCH = 8160  # a 1080p frame
_BUFFERS = 3  # one that is read, one that waits, one that is worked on

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Summary:
    """What a prediction came to.

    Attributes:
        blocks: how many were predicted.
        seconds: wall time from the first block read to the file in place.
        counts: how often each partition type is the likeliest, int64 [10].
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
        counts: how often each partition type was the likeliest, int64 [10].
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


<<<<<<< HEAD
=======
class ResultWriter:
    """Writes `.npz` piece by piece, in memory that does not grow. Used through `result_file`.

    With a known count the probabilities go straight into the archive; without, they wait in a temporary file, since
    an array's header comes first and holds its length. Partition ids wait anyway: an archive takes one member a time.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: Path, count: int | None, stack: ExitStack) -> None:
        self._archive, self._count = archive, count

        def spool() -> IO[bytes]:
            return tempfile.TemporaryFile(dir=folder)

        self._partition = stack.enter_context(spool())
        self._probability = stack.enter_context(
            spool() if count is None else _member(archive, "probability", "<f4", (count, len(Partition)))
        )
        self.written = 0
        self.counts = np.zeros(len(Partition), np.int64)

    def add(self, prediction: Prediction) -> None:
        """Append the next blocks' results."""
        self._probability.write(np.ascontiguousarray(prediction.probability, "<f4").data)
        self._partition.write(prediction.partition.data)
        self.written += len(prediction.partition)
        self.counts += np.bincount(prediction.partition, minlength=len(Partition))

    @property
    def note(self) -> str:
        """The counts say it all."""
        return ""

    def finish(self, grid: tuple[int, int] | None) -> None:
        """Write what waited, and for frames the map.

        Raises:
            InputError: if no block came, or not as many as were announced.
        """
        expected = "some" if self._count is None else f"{self._count:,}"
        if not self.written or self.written != (self._count or self.written):
            raise InputError(f"{self.written:,} blocks came, expected {expected}", "did the input change?")
        if self._count is None:
            self._copy(self._probability, "probability", "<f4", (self.written, len(Partition)))
        else:
            self._probability.close()
        self._copy(self._partition, "partition", "u1", (self.written,))
        if grid is not None:
            self._copy(self._partition, "map", "u1", (self.written // (grid[0] * grid[1]), *grid))

    def _copy(self, spool: IO[bytes], name: str, dtype: str, shape: tuple[int, ...]) -> None:
        spool.seek(0)
        with _member(self._archive, name, dtype, shape) as member:
            shutil.copyfileobj(spool, member, _COPY_BYTES)


def _member(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> IO[bytes]:
    member = archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE), "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


@contextmanager
def result_file(path: Path, count: int | None, grid: tuple[int, int] | None = None) -> Iterator[ResultWriter]:
    """A result file that appears whole when the block ends without an error, or not at all.

    Args:
        path: of the `.npz`: partition uint8 [N], probability float32 [N, 10]; for frames also map uint8
            [frames, rows, columns].
        count: N, or None if it is not known yet.
        grid: rows and columns of each frame; None without frames.

    Raises:
        OutputError: if it cannot be written.
        InputError: if no block comes, or not as many as were announced.
    """
    with (
        atomic_file(path) as file,
        output_errors(path),
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ExitStack() as stack,  # innermost: members are closed before their archive, whatever happens
    ):
        writer = ResultWriter(archive, path.parent, count, stack)
        yield writer
        writer.finish(grid)


>>>>>>> enc
def predict_stream(
    source: BlockSource,
    qindex: NDArray[np.uint8] | int,
    session: Session,
    output: Path,
    progress: Progress,
    sink: AbstractContextManager[Sink] | None = None,
) -> Summary:
    """Predict a source, batch after batch, into a result file; reading and writing go on meanwhile.

    Args:
        source: the blocks.
        qindex: one for all, or of every block, uint8 [source.count].
        session: runs them.
        output: the `.npz` to write.
        progress: told after each batch of blocks done and to come; 0 if their number is not known.
        sink: writes `output` in place of `result_file`.

    Raises:
        OutputError, InputError: as result_file.
        DeviceError: if the runtime failed on the way.
    """
    start = time.perf_counter()
    target = sink or result_file(output, source.count, source.grid)
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
            for prediction in _or_device_error(flowing, session):
                writer.add(prediction)
                yield len(prediction.partition)
        return
    size = session.batch if isinstance(session, StreamingSession) else BATCH
    writing: Future[None] | None = None
    predictions = _predictions(session, _batches(_read_ahead(source.chunks(size, _BUFFERS), pool), qindex))
    for prediction in _or_device_error(predictions, session):
        if writing is not None:
            writing.result()
        writing = pool.submit(writer.add, prediction)
        yield len(prediction.partition)
    if writing is not None:
        writing.result()


def _predictions(session: Session, batches: Iterator[Batch]) -> Iterator[Prediction]:
    if isinstance(session, StreamingSession):
        return session.stream(batches)
    return (session.predict(blocks, np.broadcast_to(qindex, len(blocks))) for blocks, qindex in batches)


def _or_device_error(predictions: Iterator[Prediction], session: Session) -> Iterator[Prediction]:
    """The same; what the runtime raises, such as a CUDA error, becomes a DeviceError."""
    try:
        yield from predictions
    except Exception as error:
        of_torch = isinstance(error, RuntimeError) and not isinstance(error, (NotImplementedError, RecursionError))
        if of_torch or type(error).__module__.startswith("onnxruntime"):
            hint = "run again; if it fails again, `cli.py verify` tells whether this machine computes right"
            raise DeviceError(f"{session.info.runtime} failed on {session.info.device}: {error}", hint) from error
        raise


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
