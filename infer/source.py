"""What predict reads: a stream of blocks with a known or unknown end, whatever file they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from description import InputForm


class BlockSource(Protocol):
    """Blocks in order.

    Attributes:
        count: how many there are; None if only reading them all can tell.
        bit_depth: 8, 10 or 12.
        grid: rows and columns of blocks of each frame, if the blocks are those of frames in raster order.

    S below is the side of a block in samples.
    """

    @property
    def count(self) -> int | None: ...

    @property
    def bit_depth(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int] | None: ...

    def with_form(self, form: InputForm) -> BlockSource:
        """The same samples as blocks of that form.

        Raises:
            InputError: if the file holds blocks that were cut otherwise.
        """
        ...

    def chunks(self, size: int, reuse: int = 0) -> Iterator[NDArray[np.integer]]:
        """The blocks, about `size` at a time: [n, S, S], uint8 at 8 bit and uint16 above.

        Args:
            size: of a chunk, about.
            reuse: how many arrays may be used in turn, so that a chunk holds only until `reuse` more were read;
                0 for chunks that stay.

        Raises:
            InputError: if the file ends early or holds what it must not.
        """
        ...

    def reader(self) -> AbstractContextManager[Callable[[NDArray[np.integer]], int]] | None:
        """For what can be read straight into memory of the caller's: a function that fills an array [n, S, S] with
        the next blocks and tells how many there were, 0 at the end; None for what cannot.
        """
        ...

    def describe(self) -> str:
        """One line for people."""
        ...
