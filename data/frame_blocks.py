"""The blocks of a file of frames, as `predict` reads them (infer.source.BlockSource)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.cutting import cut_blocks
from description import BLOCKS, InputForm
from frames.frame import FrameFormat
from frames.reader import open_frames


class FrameBlocks:
    """All blocks of all frames: ceil(H / unit) x ceil(W / unit) a frame, edges replicated.

    Args:
        path: any file that frames.frame reads.
        raw: format of raw planar YUV.
        bit_depth: as open_frames.

    Raises:
        InputError, UsageError, MissingComponentError: as frames.reader.open_frames.
    """

    def __init__(self, path: Path, raw: FrameFormat | None = None, bit_depth: int | None = None) -> None:
        self._frames = open_frames(path, raw, bit_depth=bit_depth)
        self.format = self._frames.format
        self.bit_depth = self.format.bit_depth
        self.form = BLOCKS.input

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks of a frame."""
        return self.form.grid(self.format.width, self.format.height)

    @property
    def count(self) -> int | None:
        """Blocks of all frames; None if only decoding tells."""
        frames = self._frames.frame_count
        return None if frames is None else frames * self.grid[0] * self.grid[1]

    def with_form(self, form: InputForm) -> FrameBlocks:
        """As BlockSource.with_form: a border comes from the frame, replicated beyond its edges."""
        other = copy.copy(self)
        other.form = form
        return other

    def chunks(self, size: int, reuse: int = 0) -> Iterator[NDArray[np.integer]]:
        """Blocks of whole frames, at least one frame and otherwise at most `size` blocks: [n, S, S], all new.

        Raises:
            InputError: when a frame cannot be read.
        """
        together = max(1, size // (self.grid[0] * self.grid[1]))
        with self._frames as frames:
            stream = iter(frames)
            while some := [cut_blocks(f.luma, self.form) for f in islice(stream, together)]:
                yield np.concatenate(some)

    def reader(self) -> None:
        """Frames are decoded and cut: not read as they are."""
        return None

    def describe(self) -> str:
        """One line for people."""
        frames = self._frames.frame_count
        count = "frames" if frames is None else f"{frames:,} frame(s)"
        line = f"{self._frames.path}: {count} of {self.format}, {self.grid[0]} x {self.grid[1]} blocks each"
        return "; ".join((line, *self._frames.notes))
