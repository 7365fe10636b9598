"""Folders that one process at a time may write to."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from errors import UsageError
from files import output_errors


@contextlib.contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file for as long as the block runs; it is gone afterwards.

    The operating system lets go of the lock when a process ends, however it ends: a lock file that was left behind
    locks nothing.

    Args:
        path: of the lock file; its folder is made if need be, and goes again if nothing was written to it.
        busy: the error's message if another process holds it, such as "another build is writing to ...".

    Raises:
        OutputError: if the file cannot be made.
        UsageError: if another process holds the lock.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    with output_errors(path):
        handle = _locked(path, busy)
    try:
        yield
    finally:
        # While the lock is held: whoever makes the next file of that name must find this one gone.
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what is not empty stays
            for folder in made:
                folder.rmdir()
        os.close(handle)


def _locked(path: Path, busy: str) -> int:
    """A handle on the file under that name, locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, handle):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise UsageError(busy, "wait for it to end") from None
        except BaseException:
            os.close(handle)
            raise
        # Its last holder removed the file between the two calls; the next one has to be opened anew.
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
