"""Files that appear whole or not at all, and errors of the disk as errors of the toolkit."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from errors import FULL_DISK, OutputError

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
# Short, since beside a name of 250 characters it must fit too. Locks may not reach other hosts: theirs are let be.
_TEMPORARY = f".av1part-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"
_SUFFIX = ".tmp"
_swept: set[Path] = set()


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

    Where the name is a link, what it names is replaced, and the link stays. The file is written beside it, under a
    name of ours and a lock: what a killed process left there, the next one that writes into the folder removes.

    Args:
        path: its name.
        durable: wait until it is on the disk, so that not even a power failure leaves half of it.

    Raises:
        OutputError: if the folder cannot be made or written, or the disk is full.
    """
    with output_errors(path):
        target = _target_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        temporary, file = _new_temporary(target.parent)
    try:
        with _full_disk_errors(path), file:  # the lock goes when the file has its name
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            with output_errors(path):
                os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _target_of(path: Path) -> Path:
    """What is to be replaced: of a link, what it names."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path} is no regular file, and is not replaced by one", "name a file")
    return target


def _new_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file that is locked, with the rights that any new file has."""
    while True:
        path = folder / f"{_TEMPORARY}{secrets.token_hex(8)}{_SUFFIX}"
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "w+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process takes it for left over, and removes it
            file.close()
            continue
        except OSError:  # a file system without locks, on which nobody sweeps
            return path, file
        if os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this user and host left, once for each folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [entry.path for entry in entries if entry.name.startswith(_TEMPORARY)]:
            with contextlib.suppress(OSError):
                _remove_if_left(path)


def _remove_if_left(path: str) -> None:
    found = os.lstat(path)
    if not path.endswith(_SUFFIX) or not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
        os.unlink(path)
    finally:
        os.close(handle)


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
