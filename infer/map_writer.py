"""Partition maps from predictions as they come: into a file, or frame by frame into a pipe that an encoder reads."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from description import Task
from encoder.partition_map import FRAMES_AT, NODE_SIZE, UNDECIDED, MapFormat, candidate_masks, leave_edges
from errors import InputError, UsageError
from files import atomic_file, output_errors
from infer.session import Prediction
from partition import Partition

_TYPES = len(Partition)


def check_task(task: Task) -> None:
    """Refuse tasks that a map of version 1 cannot hold: it has one level of nodes, with all ten partitions each.

    Raises:
        UsageError: if the model answers otherwise.
    """
    level = task.levels[0]
    if not task.one_node or level.node_size != NODE_SIZE or len(level.types) != _TYPES:
        sizes = ", ".join(str(each.node_size) for each in task.levels)
        message = f"a partition map holds nodes of {NODE_SIZE} samples, and the model answers nodes of {sizes}"
        raise UsageError(message, "give an --output that ends in .npz, or a bundle that reads blocks")


class MapWriter:
    """Writes a map from predictions as they come, whatever their batches. Used through `map_file`.

    Args:
        file: where to; frames are flushed one by one, for whoever reads the other end of a pipe.
        form: of the frames.
        threshold: of candidates, 0-1.
        frames: their number if known, else 0.
    """

    def __init__(self, file: BinaryIO, form: MapFormat, threshold: float, frames: int) -> None:
        self._file, self._form, self._threshold = file, form, threshold
        self._waiting: list[NDArray[np.float32]] = []
        self.written = 0
        self.counts = np.zeros((1, _TYPES), np.int64)
        self.candidates = 0
        self.restricted = 0
        file.write(form.header(frames))

    def add(self, prediction: Prediction) -> None:
        """Append the next blocks' results; whole frames are written."""
        self._waiting.append(prediction.probability.copy())  # a session may use its buffer again
        self.written += len(prediction.partition)
        self.counts += np.bincount(prediction.partition, minlength=_TYPES)[None]
        if sum(map(len, self._waiting)) >= self._form.nodes:
            joined = np.concatenate(self._waiting)
            whole = len(joined) - len(joined) % self._form.nodes
            self._waiting = [joined[whole:]]
            for frame in joined[:whole].reshape(-1, *self._form.grid, _TYPES):
                self._write(frame)

    def _write(self, probability: NDArray[np.float32]) -> None:
        masks = leave_edges(candidate_masks(probability, self._threshold), self._form.width, self._form.height)
        self._file.write(masks.astype("<u2").tobytes())
        if self._form.has_probability:
            self._file.write(np.rint(255 * probability).astype(np.uint8).tobytes())
        self._file.flush()
        decided = masks[masks != UNDECIDED]
        self.restricted += decided.size
        self.candidates += int(np.unpackbits(decided.view(np.uint8)).sum())

    @property
    def note(self) -> str:
        """How far the map restricts an encoder."""
        mean = self.candidates / max(self.restricted, 1)
        return f"restricted {self.restricted:,} of {self.written:,} nodes, to {mean:.2f} partitions each"

    def finish(self) -> None:
        """Check that the last frame was whole.

        Raises:
            InputError: if it was not, or no frame came.
        """
        rest = self.written % self._form.nodes
        if rest or not self.written:
            raise InputError(f"{self.written:,} blocks came, and a frame has {self._form.nodes:,}")


@contextmanager
def map_file(path: Path, form: MapFormat, threshold: float, pipe: BinaryIO | None = None) -> Iterator[MapWriter]:
    """A partition map that appears whole when the block ends without an error, or not at all.

    Args:
        path: of the file.
        form: of its frames.
        threshold: of candidates, 0-1.
        pipe: write here instead, frame by frame.

    Raises:
        OutputError: if it cannot be written.
        InputError: if no frame comes, or the last is not whole.
    """
    if pipe is not None:
        with output_errors(path):
            writer = MapWriter(pipe, form, threshold, 0)
            yield writer
            writer.finish()
        return
    with atomic_file(path) as file, output_errors(path):
        writer = MapWriter(file, form, threshold, 0)
        yield writer
        writer.finish()
        file.seek(FRAMES_AT)
        file.write(struct.pack("<I", writer.written // form.nodes))
