"""Files that are read: regular ones only, since everything else can hang, or never end."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from errors import InputError, ToolkitError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path, error: type[ToolkitError] = InputError) -> io.BufferedReader:
    """Open a file to read its bytes; links are followed.

    Args:
        path: its name.
        error: what to raise.

    Raises:
        InputError, or `error`: if it is not there, cannot be opened, or is a FIFO, folder, device or socket.
    """
    try:
        _require_regular(path, os.stat(path).st_mode, error)
        # Should a FIFO have taken its place meanwhile, opening that must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}") from None
    except ValueError:
        raise error(f"{str(path)!r} is no file name") from None
    try:
        _require_regular(path, os.fstat(handle).st_mode, error)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(path: Path, mode: int, error: type[ToolkitError]) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        hint = "" if stat.S_ISDIR(mode) else "save what it gives to a file first"
        raise error(f"{path} is {kind}, not a regular file", hint)
