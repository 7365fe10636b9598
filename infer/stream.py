"""Stream blocks through a session into a result file: any N, bounded memory, nothing half-written."""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bundle import atomic_file, output_errors
from errors import InputError
from infer.session import Prediction, Session
from partition import Partition

BATCH = 8160  # a 1080p frame
_COPY_BYTES = 1 << 20
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same result, whenever it is written

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Summary:
    """What a prediction came to.

    Attributes:
        blocks: how many were predicted.
        seconds: wall time from the first block read to the file in place.
        counts: how often each partition type is the likeliest, int64 [10].
        output: the file written.
    """

    blocks: int
    seconds: float
    counts: NDArray[np.int64]
    output: Path


class ResultWriter:
    """Writes `.npz` piece by piece: probability goes straight into the archive, partition waits in a temporary file.

    Used through `result_file`.
    """

    def __init__(self, archive: zipfile.ZipFile, spool: BinaryIO, count: int) -> None:
        self._archive, self._spool, self._count = archive, spool, count
        self._member: BinaryIO | None = None
        self.written = 0
        self.counts = np.zeros(len(Partition), np.int64)

    def add(self, prediction: Prediction) -> None:
        """Append the next blocks' results."""
        if self._member is None:
            self._member = _open_member(self._archive, "probability", np.dtype("<f4"), (self._count, len(Partition)))
        self._member.write(np.ascontiguousarray(prediction.probability, "<f4").data)
        self._spool.write(prediction.partition.data)
        self.written += len(prediction.partition)
        self.counts += np.bincount(prediction.partition, minlength=len(Partition))

    def finish(self, map_shape: tuple[int, int, int] | None) -> None:
        """Write the partition ids, and for frames the map, behind the probabilities.

        Raises:
            InputError: if fewer blocks came than were announced.
        """
        if self._member is None or self.written != self._count:
            raise InputError(f"{self.written:,} of {self._count:,} blocks came", "the input changed while it was read")
        self._member.close()
        shapes: dict[str, tuple[int, ...]] = {"partition": (self._count,)}
        if map_shape is not None:
            shapes["map"] = map_shape
        for name, shape in shapes.items():
            self._spool.seek(0)
            with _open_member(self._archive, name, np.dtype("u1"), shape) as member:
                while piece := self._spool.read(_COPY_BYTES):
                    member.write(piece)


def _open_member(archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> BinaryIO:
    member = archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE), "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member  # type: ignore[return-value]


@contextmanager
def result_file(path: Path, count: int, map_shape: tuple[int, int, int] | None = None) -> Iterator[ResultWriter]:
    """A result file that appears whole when the block ends without an error, or not at all.

    Args:
        path: of the `.npz`: partition uint8 [count], probability float32 [count, 10], and map uint8 `map_shape`.
        count: blocks that will come.
        map_shape: frames, rows, columns; None without frames.

    Raises:
        OutputError: if it cannot be written.
        InputError: if fewer blocks come than were announced.
    """
    with atomic_file(path) as file, output_errors(path), tempfile.TemporaryFile(dir=path.parent) as spool:
        archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        writer = ResultWriter(archive, spool, count)
        try:
            yield writer
            writer.finish(map_shape)
        finally:
            if writer._member is not None:
                writer._member.close()  # an archive with an open member cannot be closed
            archive.close()


def predict_stream(
    batches: Iterable[NDArray[np.integer]],
    qindex: NDArray[np.uint8],
    session: Session,
    output: Path,
    progress: Progress,
    map_shape: tuple[int, int, int] | None = None,
) -> Summary:
    """Predict batch after batch into a result file.

    Args:
        batches: raw samples [<= any, 16, 16], in order.
        qindex: of every block, uint8 [N]; N is how many blocks must come.
        session: runs them.
        output: the `.npz` to write.
        progress: told after each batch.
        map_shape: frames, rows, columns, if the blocks are those of frames.

    Raises:
        OutputError, InputError: as result_file.
    """
    start, total = time.perf_counter(), len(qindex)
    with result_file(output, total, map_shape) as writer:
        for blocks in batches:
            done = writer.written
            writer.add(session.predict(blocks, qindex[done : done + len(blocks)]))
            rate = writer.written / (time.perf_counter() - start)
            progress(writer.written, total, f"{rate:,.0f} blocks/s")
        counts = writer.counts
    return Summary(total, time.perf_counter() - start, counts, output)
