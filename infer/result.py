"""The result file of a prediction: `.npz`, written piece by piece; whole, or under another name as far as it came."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from errors import FULL_DISK, InputError, OutputError
from files import atomic_file, output_errors
from infer.session import Prediction
from partition import LOGITS, Partition

_COPY_BYTES = 1 << 20
_COPY_BLOCKS = 1 << 16
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same result, whenever it is written


class ResultWriter:
    """Writes `.npz` piece by piece, in memory that does not grow. Used through `result_file`.

    With a known count the probabilities go straight into the archive; without, they wait in a temporary file, since
    an array's header comes first and holds its length. Partition ids wait anyway: an archive takes one member a time.
    """

    def __init__(
        self, file: BinaryIO, archive: zipfile.ZipFile, folder: Path, count: int | None, stack: ExitStack
    ) -> None:
        self._archive, self._count = archive, count

        def spool() -> IO[bytes]:
            return stack.enter_context(tempfile.TemporaryFile(dir=folder))

        self._partition = spool()
        # Where the probabilities lie, and from which byte on.
        self._lies: tuple[IO[bytes], int]
        if count is None:
            self._probability = spool()
            self._lies = self._probability, 0
        else:
            member = _member(archive, "probability", "<f4", (count, len(Partition)))
            self._probability = stack.enter_context(member)
            self._lies = file, file.tell()
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

    def finished(self, nodes: int) -> int:
        """Blocks whose results are here, in whole frames of that many nodes; 0 if more came than were announced."""
        return self.written // nodes * nodes if self.written < (self._count or self.written + 1) else 0

    def pieces(self, count: int) -> Iterator[Prediction]:
        """The first `count` blocks' results once more, without logits."""
        file, first = self._lies
        for start in range(0, count, _COPY_BLOCKS):
            rows, row = min(_COPY_BLOCKS, count - start), 4 * len(Partition)
            file.seek(first + start * row)
            probability = file.read(rows * row)
            self._partition.seek(start)
            partition = self._partition.read(rows)
            yield Prediction(
                np.empty((0, LOGITS), np.float32),
                np.frombuffer(probability, "<f4").reshape(rows, len(Partition)),
                np.frombuffer(partition, np.uint8),
            )

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

    If it ends with one, what was finished (of frames: whole ones) goes into `<stem>.partial.npz`, and a note on the
    error says so. The file is not forced to the disk: it can be computed again, and waiting would take longer than
    predicting.

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
        atomic_file(path, durable=False) as file,
        output_errors(path),
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ExitStack() as stack,  # innermost: members are closed before their archive, whatever happens
    ):
        writer = ResultWriter(file, archive, path.parent, count, stack)
        try:
            yield writer
            writer.finish(grid)
        except BaseException as error:
            _save_finished(writer, path, count, grid, error)
            raise


def partial_path(path: Path) -> Path:
    """Where what was finished goes if the rest fails."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _save_finished(
    writer: ResultWriter, path: Path, count: int | None, grid: tuple[int, int] | None, error: BaseException
) -> None:
    done = writer.finished(1 if grid is None else grid[0] * grid[1])
    no_room = isinstance(error, OutputError) or (isinstance(error, OSError) and error.errno in FULL_DISK)
    if not done or no_room:
        return
    try:
        with result_file(partial_path(path), done, grid) as partial:
            for piece in writer.pieces(done):
                partial.add(piece)
    except (OutputError, OSError):
        return  # the error that led here says more
    rest = "what follows is" if count is None else f"the other {count - done:,} are"
    error.add_note(f"the first {done:,} blocks are in {partial_path(path)}, {rest} not predicted")
