"""Files that appear whole or not at all, and errors of the disk as errors of the toolkit."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from errors import FULL_DISK, OutputError

_NAME_BYTES = 80
# ENOENT is how /proc and a folder that vanished refuse a new file.
_REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EIO,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that appears under its name whole, when the block ends without an error, or not at all.

    Args:
        path: its name.
        durable: wait until it is on the disk, so that not even a power failure leaves half of it.

    Raises:
        OutputError: if the folder cannot be made or written, or the disk is full.
    """
    with output_errors(path):
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is no regular file, and is not replaced by one", "name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _file_beside(path)
    try:
        with _full_disk_errors(path), os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        with output_errors(path):
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing.

    Raises:
        OutputError: as atomic_file.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into OutputError."""
    try:
        with _full_disk_errors(path):
            yield
    except OSError as error:
        if error.errno in _REFUSALS:
            hint = "choose another --output or --output-dir"
            raise OutputError(f"{path} cannot be written: {error.strerror}", hint) from None
        raise


@contextlib.contextmanager
def _full_disk_errors(path: Path) -> Iterator[None]:
    """Only what an open file's `write` can meet: other errors in the block are not the output's."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise OutputError(f"disk full while writing {path}", "free some space and run again") from None
        raise


def _file_beside(path: Path) -> tuple[int, Path]:
    """A new file in the same folder, open, and its name.

    The system makes it with the mode that the umask leaves. tempfile would give it to its owner alone, and what the
    umask is could only be asked by changing it, for every thread.
    """
    # Of a long name a part alone: the whole, and the random part, may be more than a folder takes.
    start = os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES])
    while True:
        name = path.with_name(f".{start}.{secrets.token_hex(4)}")
        with contextlib.suppress(FileExistsError):
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), name
