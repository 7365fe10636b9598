"""Read blocks.npy and qindex.npy: checked, in chunks, in bounded memory, never unpickled.

Files are read, not memory-mapped: mapped pages would count as resident, and a disk error would kill the process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from description import InputForm
from errors import InputError
from inputs import open_regular

_HEADER_LIMIT = 1 << 16
_SAVE = "save the blocks with numpy.save"
_QINDEX_CHUNK = 1 << 20
_READERS = 4  # one core copies some 6 GB/s out of the page cache, a GPU takes as much


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


def _read_header(path: Path, file: FileIO) -> _Header:
    _check_start(path, file)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise InputError(f"{path} has .npy version {version}", "save it again with numpy.save")
        with warnings.catch_warnings(action="ignore"):  # the parser's, of odd Python text
            shape, fortran, dtype = read(file)
    except InputError:
        raise
    except Exception as error:  # the header is Python text: whatever Python's parser raises can come out
        reason = shorten(str(error), 120)
        raise InputError(f"{path} is no .npy file: {reason}", _SAVE) from None
    if any(isinstance(side, bool) or side < 0 for side in shape):
        raise InputError(f"{path} is no .npy file: its shape is {shape}", _SAVE)
    if dtype.hasobject:
        raise InputError(f"{path} holds pickled objects", "these are never unpickled: save a plain integer array")
    if fortran and len(shape) > 1:
        raise InputError(f"{path} is in Fortran order", "save numpy.ascontiguousarray(blocks)")
    _check_length(path, file, int(np.prod(shape, dtype=object)) * dtype.itemsize)
    return _Header(shape, dtype, file.tell())


def _check_start(path: Path, file: FileIO) -> None:
    """What the first bytes tell, before numpy takes as much memory as they ask for."""
    start = file.read(12)
    file.seek(0)
    if start.startswith(b"PK"):
        hint = "save one of its arrays: numpy.save('blocks.npy', numpy.load('it.npz')['blocks'])"
        raise InputError(f"{path} is an .npz archive, not a .npy file", hint)
    length = int.from_bytes(start[8:12], "little") if start[6:7] == b"\2" else 0
    if length > _HEADER_LIMIT:
        raise InputError(f"{path} is no .npy file: it says that its header has {length:,} bytes", _SAVE)


def _check_length(path: Path, file: FileIO, size: int) -> None:
    """The array must be all that follows the header."""
    expected, found = file.tell() + size, os.fstat(file.fileno()).st_size
    if found < expected:
        raise InputError(f"{path} is truncated: {found:,} of {expected:,} bytes", "copy or write it again")
    if found > expected:
        hint = "save one array to a file: numpy.concatenate joins several"
        raise InputError(f"{path} holds {found - expected:,} bytes behind its array", hint)


def _open(path: Path) -> FileIO:
    file = open_regular(path)
    assert isinstance(file, BufferedReader)
    raw = file.detach()
    assert isinstance(raw, FileIO)
    return raw


@dataclass(frozen=True)
class BlockFile:
    """A checked blocks.npy: N blocks of raw luma samples.

    Attributes:
        path: of the file.
        count: N.
        bit_depth: of the samples.
        dtype: as stored: uint8, or uint16 of either byte order.
        side: of the blocks, in samples.
    """

    path: Path
    count: int
    bit_depth: int
    dtype: np.dtype
    offset: int
    side: int
    grid: None = None

    def describe(self) -> str:
        """One line for people."""
        return f"{self.path}: {self.count:,} blocks of {self.side}x{self.side}, {self.dtype.name}, {self.bit_depth} bit"

    def with_form(self, form: InputForm) -> BlockFile:
        """As BlockSource.with_form."""
        if self.side == form.side:
            return self
        message = f"{self.path} holds blocks of {self.side}x{self.side}, the model reads {form.side}x{form.side}"
        if self.side == form.unit:
            hint = f"frames are cut so here, and `cli.py dataset blocks --border {form.border}` cuts those of a dataset"
        elif form.border == 0 and self.side > form.side and (self.side - form.side) % 2 == 0:
            edge = (self.side - form.side) // 2
            cut = f"{edge}:{edge + form.side}"
            hint = f"if that is a border, save their middle, blocks[:, {cut}, {cut}]; or take a bundle that reads it"
        else:
            hint = "give frames, which are cut here, or take a bundle that reads such blocks"
        raise InputError(message, hint)

    def reader(self) -> AbstractContextManager[Callable[[NDArray[np.integer]], int]] | None:
        """As BlockSource.reader: for 8-bit files, whose samples need neither check nor conversion."""
        return _reading(self) if self.dtype == np.uint8 else None

    def chunks(self, size: int, reuse: int = 0) -> Iterator[NDArray[np.integer]]:
        """The blocks in order, [<= size, side, side], uint8 at 8 bit and uint16 above; `reuse` as BlockSource.chunks.

        Raises:
            InputError: if a sample is above the bit depth, or the file shrank meanwhile.
        """
        target, area = np.uint8 if self.bit_depth == 8 else np.uint16, self.side**2
        # Pages of a fresh array cost as much as reading them from the page cache.
        arrays = [np.empty(min(size, self.count) * area, self.dtype) for _ in range(reuse)]
        with _open(self.path) as file:
            file.seek(self.offset)
            for number, start in enumerate(range(0, self.count, size)):
                count = min(size, self.count - start)
                values = arrays[number % reuse] if reuse else np.empty(count * area, self.dtype)
                flat = _read_into(self.path, file, values[: count * area])
                if self.dtype.itemsize > 1 and (top := int(flat.max())) >> self.bit_depth:
                    raise InputError(
                        f"{self.path}: sample {top} is above {self.bit_depth} bit", "give the true --bit-depth"
                    )
                yield flat.reshape(count, self.side, self.side).astype(target, copy=False)


@contextmanager
def _reading(file: BlockFile) -> Iterator[Callable[[NDArray[np.integer]], int]]:
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(file.path)) for _ in range(_READERS)]
        pool = stack.enter_context(ThreadPoolExecutor(_READERS))
        done = 0

        def fill(target: NDArray[np.integer]) -> int:
            nonlocal done
            count = min(len(target), file.count - done)
            edges = [count * i // _READERS for i in range(_READERS + 1)]

            def read(number: int) -> None:
                first, last = edges[number : number + 2]
                opened[number].seek(file.offset + file.side**2 * (done + first))
                _read_into(file.path, opened[number], target[first:last].reshape(-1))

            list(pool.map(read, range(_READERS)))
            done += count
            return count

        yield fill


def open_blocks(path: Path, bit_depth: int = 8) -> BlockFile:
    """Open a .npy of blocks, [N, S, S] or [N, 1, S, S], uint8 or uint16; `with_form` tells whether S fits a model.

    Args:
        path: the file.
        bit_depth: of the samples: 8, 10 or 12.

    Raises:
        InputError: if it is missing, no .npy, truncated, pickled, empty, or of another shape or dtype.
    """
    with _open(path) as file:
        header = _read_header(path, file)
    shape, dtype = header.shape, header.dtype
    side = shape[-1] if shape else 0
    if shape[1:] not in [(side, side), (1, side, side)] or not side:
        raise InputError(f"{path} has shape {shape}", "expected square blocks, such as [N, 16, 16] or [N, 1, 16, 16]")
    if dtype.kind != "u" or dtype.itemsize > 2:
        hint = "raw samples are uint8 or uint16; scaling happens inside the model"
        raise InputError(f"{path} holds {dtype.name}, not raw samples", hint)
    if shape[0] == 0:
        raise InputError(f"{path} holds no block")
    return BlockFile(path, shape[0], bit_depth, dtype, header.offset, side)


def read_qindex(value: str, count: int | None) -> NDArray[np.uint8] | int:
    """Qindex of all blocks, or of every block: uint8 [count].

    Args:
        value: one number, or the path of a .npy of integers [count].
        count: blocks; None if that is not known, when only one number will do.

    Raises:
        InputError: if the file is no such array, or a value is outside 0-255.
    """
    try:
        number = int(value)
    except ValueError:
        if count is None:
            raise InputError("a file of qindex needs an input whose blocks are counted", "give one --qindex") from None
        return _qindex_file(Path(value), count)
    if not 0 <= number <= 255:
        raise InputError(f"qindex {number} is out of range", "AV1's qindex is 0 to 255")
    return number


def _qindex_file(path: Path, count: int) -> NDArray[np.uint8]:
    with _open(path) as file:
        header = _read_header(path, file)
        if header.shape != (count,) or header.dtype.kind not in "ui":
            raise InputError(
                f"{path} holds {header.dtype.name} {header.shape}", f"expected one integer for each of {count:,} blocks"
            )
        qindex = np.empty(count, np.uint8)
        for start in range(0, count, _QINDEX_CHUNK):
            values = _read_into(path, file, np.empty(min(_QINDEX_CHUNK, count - start), header.dtype))
            for value in (int(values.min()), int(values.max())):
                if not 0 <= value <= 255:
                    raise InputError(f"{path}: qindex {value} is out of range", "AV1's qindex is 0 to 255")
            qindex[start : start + len(values)] = values
    return qindex


def _read_into(path: Path, file: FileIO, values: NDArray[np.integer]) -> NDArray[np.integer]:
    """Fill an array of one axis from the file; returns it."""
    left = values.view(np.uint8).data
    try:
        while left and (count := file.readinto(left)):
            left = left[count:]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if left:
        raise InputError(f"{path} shrank while it was read")
    return values
