"""Names of clips and pictures in a dataset: any file name in, one out that every file system and CSV reader keeps."""

from __future__ import annotations

import hashlib
import os

_MOST_BYTES = 200
"""Of a clip's name: number of the frame, suffix and what a temporary file adds must fit behind, 255 bytes in all."""
_KEPT_BYTES = 180


def kept_name(name: str) -> str:
    """The name of a file's pictures in a dataset, from the file's name without its suffix.

    Nearly always the name itself. Bytes that are no UTF-8, control characters and a leading dot become %XX; a name of
    more than 200 bytes keeps its first 180, and ten digits of its hash.
    """
    shown = printable(name)
    if shown.startswith("."):
        shown = f"%2E{shown[1:]}"
    if len(shown.encode()) <= _MOST_BYTES:
        return shown
    short = shown.encode()[:_KEPT_BYTES].decode(errors="ignore")
    return f"{short}~{hashlib.sha256(shown.encode()).hexdigest()[:10]}"


def printable(name: str) -> str:
    """A file name as text that can be written down: bytes that are no UTF-8 and control characters become %XX."""
    return "".join(char if _is_kept(char) else _escaped(char) for char in name)


def _is_kept(char: str) -> bool:
    code = ord(char)
    return code >= 0x20 and not 0x7F <= code < 0xA0 and not 0xD800 <= code < 0xE000


def _escaped(char: str) -> str:
    # Python keeps bytes of a file name that are no UTF-8 as half a surrogate pair; any other half has no bytes at all.
    data = os.fsencode(char) if not 0xD800 <= ord(char) < 0xDC80 else char.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)
