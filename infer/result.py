"""The result file of a prediction: `.npz`, written piece by piece; whole, or under another name as far as it came.

blocks:   partition [N]              probability [N, 10]              of frames also map [frames, rows, cols]
others:   partition_32 [N, nodes]    probability_32 [N, nodes, types]    ... for each level
          of frames instead [frames, rows, cols] and [frames, rows, cols, types], in the frame's own grid of nodes
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from description import Level, Task
from errors import FULL_DISK, InputError, OutputError
from files import atomic_file, output_errors
from infer.session import Prediction
from partition import Partition

_COPY_BYTES = 1 << 20
_NAME_BYTES = 255
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same result, whenever it is written

Grid = tuple[int, int]
"""Rows and columns of blocks of a frame."""


@dataclass
class _Column:
    """One array of the result.

    Attributes:
        name: of the array.
        dtype: as numpy writes it.
        shape: of a block's part of it.
        level: whose nodes it speaks of.
        file: where its values lie, in order; set when it is opened.
        start: from which byte on.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    level: Level
    file: IO[bytes]
    start: int = 0

    @property
    def block_bytes(self) -> int:
        """Bytes of a block's part."""
        return int(np.prod(self.shape, dtype=int)) * np.dtype(self.dtype).itemsize


class ResultWriter:
    """Writes `.npz` piece by piece, in memory that does not grow. Used through `result_file`.

    With a known count the first array goes straight into the archive; without, it waits in a temporary file, since an
    array's header comes first and holds its length. The others wait anyway: an archive takes one member a time.
    """

    def __init__(
        self,
        file: BinaryIO,
        archive: zipfile.ZipFile,
        folder: Path,
        task: Task,
        count: int | None,
        grid: Grid | None,
        stack: ExitStack,
    ) -> None:
        self._archive, self._task, self._count, self._grid = archive, task, count, grid

        def spool() -> IO[bytes]:
            return stack.enter_context(tempfile.TemporaryFile(dir=folder))

        self._columns = [_Column(*each, spool()) for each in _columns(task)]
        self._targets = [column.file for column in self._columns]
        if count is not None:
            first = self._columns[0]
            self._targets[0] = stack.enter_context(_member(archive, first.name, first.dtype, self._shape(first, count)))
            first.file, first.start = file, file.tell()
        self._waiting: list[Prediction] = []
        self.written = 0
        self.counts = np.zeros((len(task.levels), len(Partition)), np.int64)

    def add(self, prediction: Prediction) -> None:
        """Append the next blocks' results."""
        blocks = len(prediction.partition)
        self.written += blocks
        for row, nodes in enumerate(self._task.node_slices().values()):
            ids = prediction.partition if self._task.one_node else prediction.partition[:, nodes].reshape(-1)
            self.counts[row] += np.bincount(ids, minlength=len(Partition))
        if self._by_frame:
            self._add_rows(prediction)
        else:
            self._write(prediction)

    @property
    def _by_frame(self) -> bool:
        """Whether arrays are those of whole frames, which blocks of several nodes do not fill in order."""
        return self._grid is not None and not self._task.one_node

    def _add_rows(self, prediction: Prediction) -> None:
        """Write what makes up whole rows of blocks of a frame; keep the rest."""
        assert self._grid is not None
        self._waiting.append(
            Prediction(prediction.logits[:0], prediction.probability.copy(), prediction.partition.copy())
        )
        if sum(len(p.partition) for p in self._waiting) < self._grid[1]:
            return
        probability = np.concatenate([p.probability for p in self._waiting])
        partition = np.concatenate([p.partition for p in self._waiting])
        whole = len(partition) - len(partition) % self._grid[1]
        none = prediction.logits[:0]
        self._waiting = [Prediction(none, probability[whole:], partition[whole:])]
        self._write(Prediction(none, probability[:whole], partition[:whole]))

    def _write(self, prediction: Prediction) -> None:
        probability = self._task.split_probability(prediction.probability)
        partition, nodes = prediction.partition, self._task.node_slices()
        for column, target in zip(self._columns, self._targets, strict=True):
            size = column.level.node_size
            if column.dtype == "u1":
                values: NDArray[Any] = partition if self._task.one_node else partition[:, nodes[size]]
            else:
                values = probability[size]
            if self._by_frame:
                values = self._rows_of_nodes(values, column.level)
            target.write(np.ascontiguousarray(values, column.dtype).data)

    def _rows_of_nodes(self, values: NDArray[Any], level: Level) -> NDArray[Any]:
        """Whole rows of blocks, [rows * cols, nodes, ...], as rows of nodes, [rows * side, cols * side, ...]."""
        assert self._grid is not None
        side, cols, rest = self._task.input.unit // level.node_size, self._grid[1], values.shape[2:]
        return values.reshape(-1, cols, side, side, *rest).swapaxes(1, 2).reshape(-1, cols * side, *rest)

    @property
    def note(self) -> str:
        """The counts say it all."""
        return ""

    def finish(self) -> None:
        """Write what waited, and for frames the map.

        Raises:
            InputError: if no block came, or not as many as were announced.
        """
        expected = "some" if self._count is None else f"{self._count:,}"
        if not self.written or self.written != (self._count or self.written):
            raise InputError(f"{self.written:,} blocks came, expected {expected}", "did the input change?")
        if self._count is None:
            self._copy(self._archive, self._columns[0], self.written)
        else:
            self._targets[0].close()
        self._copy_rest(self._archive, self.written)

    def finished(self) -> int:
        """Blocks whose results are here, of frames whole ones; 0 if more came than were announced."""
        nodes = 1 if self._grid is None else self._grid[0] * self._grid[1]
        return self.written // nodes * nodes if self.written < (self._count or self.written + 1) else 0

    def save(self, archive: zipfile.ZipFile, count: int) -> None:
        """Write the first `count` blocks' results once more, into another archive."""
        self._copy(archive, self._columns[0], count)
        self._copy_rest(archive, count)

    def _copy_rest(self, archive: zipfile.ZipFile, count: int) -> None:
        for column in self._columns[1:]:
            self._copy(archive, column, count)
        if self._grid is not None and self._task.one_node:
            frames = count // (self._grid[0] * self._grid[1])
            self._copy(archive, self._columns[-1], count, "map", (frames, *self._grid))

    def _copy(
        self,
        archive: zipfile.ZipFile,
        column: _Column,
        count: int,
        name: str = "",
        shape: tuple[int, ...] | None = None,
    ) -> None:
        column.file.flush()
        column.file.seek(column.start)
        left = count * column.block_bytes
        with _member(archive, name or column.name, column.dtype, shape or self._shape(column, count)) as member:
            while part := column.file.read(min(left, _COPY_BYTES)):
                member.write(part)
                left -= len(part)

    def _shape(self, column: _Column, count: int) -> tuple[int, ...]:
        if not self._by_frame:
            return (count, *column.shape)
        assert self._grid is not None
        rows, cols = self._grid
        side = self._task.input.unit // column.level.node_size
        return (count // (rows * cols), rows * side, cols * side, *column.shape[1:])


def _columns(task: Task) -> list[tuple[str, str, tuple[int, ...], Level]]:
    """Name, dtype, shape of a block's part, and level of each array, in the order of the archive."""
    columns = []
    for kind, dtype in (("probability", "<f4"), ("partition", "u1")):
        for level in task.levels:
            nodes = () if task.one_node else (task.nodes_of(level),)
            types = (len(level.types),) if kind == "probability" else ()
            columns.append((kind + task.suffix(level), dtype, (*nodes, *types), level))
    return columns


def _member(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> IO[bytes]:
    member = archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE), "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


@contextmanager
def result_file(path: Path, task: Task, count: int | None, grid: Grid | None = None) -> Iterator[ResultWriter]:
    """A result file that appears whole when the block ends without an error, or not at all.

    If it ends with one, what was finished (of frames: whole ones) goes into `<stem>.partial.npz`, and a note on the
    error says so. The file is not forced to the disk: it can be computed again, and waiting would take longer than
    predicting.

    Args:
        path: of the `.npz`; probability float32, partition and map uint8, shapes as at the top of this file.
        task: what the predictions answer.
        count: N, or None if it is not known yet.
        grid: rows and columns of blocks of each frame; None without frames.

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
        writer = ResultWriter(file, archive, path.parent, task, count, grid, stack)
        try:
            yield writer
            writer.finish()
        except BaseException as error:
            _save_finished(writer, path, count, error)
            raise


def partial_path(path: Path) -> Path:
    """Where what was finished goes if the rest fails: shorter than the name, if that leaves no room."""
    stem, ending = path.stem, f".partial{path.suffix}"
    while len(stem) > 1 and len(os.fsencode(stem + ending)) > _NAME_BYTES:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def _save_finished(writer: ResultWriter, path: Path, count: int | None, error: BaseException) -> None:
    done = writer.finished()
    no_room = isinstance(error, OutputError) or (isinstance(error, OSError) and error.errno in FULL_DISK)
    if not done or no_room:
        return
    partial = partial_path(path)
    try:
        with (
            atomic_file(partial, durable=False) as file,
            output_errors(partial),
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            writer.save(archive, done)
    except (OutputError, OSError):
        return  # the error that led here says more
    rest = "what follows is" if count is None else f"the other {count - done:,} are"
    error.add_note(f"the first {done:,} blocks are in {partial}, {rest} not predicted")
