"""Arrays out of .npz files that anyone may have written: nothing is allocated before it is known how much, and nothing
is unpickled.

numpy.load would decompress whatever the file says, and raises what zip, zlib, lzma and Python's parser raise.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import IO

import numpy as np
from numpy.typing import NDArray

from errors import InputError, ToolkitError
from inputs import open_regular

_MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 4096
_HEADER = re.compile(
    r"\s*\{\s*'descr':\s*'([<>|=]?[a-zA-Z]\d{0,9})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(([\d,\s]*)\)\s*,?\s*\}\s*"
)
# What zip adds to the members that are read, and other members, small ones.
_OVERHEAD = 1 << 20
# numpy writes these two; others may take memory by what their headers claim.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class ArraySpec:
    """What an array must be.

    Attributes:
        dtypes: names of the types that will do, such as "uint8"; "str" is text of any length.
        shape: length of each axis, None for any length; None in place of all: any shape.
        meaning: what its axes are, for the hint of an error.
        optional: whether it may be missing.
    """

    dtypes: tuple[str, ...]
    shape: tuple[int | None, ...] | None = None
    meaning: str = ""
    optional: bool = False

    def admits(self, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
        """Whether an array of this type and shape will do."""
        if _name(dtype) not in self.dtypes:
            return False
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(b in (a, None) for a, b in zip(shape, self.shape, strict=True))

    def __str__(self) -> str:
        sides = "" if self.shape is None else f" ({', '.join('any' if n is None else str(n) for n in self.shape)})"
        return " or ".join(self.dtypes) + sides


def read_arrays(
    path: Path,
    names: Mapping[str, ArraySpec],
    limit_bytes: int,
    kind: str = "file of arrays",
    error: type[ToolkitError] = InputError,
) -> dict[str, NDArray]:
    """Some arrays of an .npz file, each checked by its header before its samples are read.

    Args:
        path: the file.
        names: the arrays to read, and what each must be; others are left alone.
        limit_bytes: how large they may be together.
        kind: what the file should be, for the error.
        error: what to raise.

    Returns:
        The arrays by name, in the machine's byte order; those that are optional and missing are left out.

    Raises:
        InputError, or `error`: if the file is missing, no regular one, damaged or too large, or an array is missing,
            of another type or shape, or of pickled objects.
    """
    with open_regular(path, error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit_bytes + _OVERHEAD:
            raise error(f"{path} is no {kind}: {size:,} bytes, at most {limit_bytes:,} are expected")
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_members(archive, names, limit_bytes)
        except _UnfitError as unfit:
            raise error(f"{path} is no {kind}: {unfit}", unfit.hint) from None
        except Exception as failure:  # damaged bytes make zipfile and zlib raise nearly anything
            reason = shorten(str(failure), 120) or type(failure).__name__
            raise error(f"{path} is no {kind}: {reason}", "copy or make it again") from None


class _UnfitError(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _read_members(archive: zipfile.ZipFile, names: Mapping[str, ArraySpec], limit_bytes: int) -> dict[str, NDArray]:
    found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    chosen = {name: found[name] for name in names if name in found}
    if missing := [name for name, spec in names.items() if name not in chosen and not spec.optional]:
        raise _UnfitError(f"it holds no '{missing[0]}'")
    total = sum(info.file_size for info in chosen.values())
    if total > limit_bytes:
        raise _UnfitError(f"it says that it holds {total:,} bytes, at most {limit_bytes:,} are expected")
    return {name: _read_member(archive, info, name, names[name]) for name, info in chosen.items()}


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, spec: ArraySpec) -> NDArray:
    if info.compress_type not in _METHODS or info.flag_bits & 1:
        raise _UnfitError(f"'{name}' is compressed or encrypted in a way that numpy does not write")
    with archive.open(info) as member:
        dtype, fortran, shape = _read_header(member, name)
        if not spec.admits(dtype, shape):
            raise _UnfitError(f"'{name}' is {_name(dtype)} {shape}, expected {spec}", spec.meaning)
        expected = math.prod(shape) * dtype.itemsize
        if info.file_size - member.tell() != expected:
            raise _UnfitError(f"'{name}' has {info.file_size - member.tell():,} bytes, its header says {expected:,}")
        values = np.frombuffer(member.read(), dtype)
    return values.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))


def _read_header(member: IO[bytes], name: str) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """Type, Fortran order and shape; read without evaluating what is Python text."""
    start = member.read(8)
    width = {b"\x01\x00": 2, b"\x02\x00": 4}.get(start[6:])
    if start[:6] != _MAGIC or width is None:
        raise _UnfitError(f"'{name}' is no .npy array of version 1 or 2")
    length = int.from_bytes(member.read(width), "little")
    match = _HEADER.fullmatch(member.read(length).decode("latin-1")) if length <= _HEADER_LIMIT else None
    if match is None or match[1].lstrip("<>|=")[0] == "O":
        raise _UnfitError(f"'{name}' is no plain array, or its header is damaged", "objects are never unpickled")
    shape = tuple(int(side) for side in match[3].replace(",", " ").split() if len(side) < 19)
    return np.dtype(match[1]), match[2] == "True", shape


def _name(dtype: np.dtype) -> str:
    return "str" if dtype.kind == "U" else dtype.name
