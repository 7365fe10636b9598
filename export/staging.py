"""A bundle is replaced in one step: it is built in a folder beside it, and the two change places.

    bundles/tiny                      the bundle that is there, whole until the last moment
    bundles/.tiny.export-x7k2/new     the one that is being made

Whoever is killed leaves the old bundle or the new one, and a folder that the next export of that name sweeps. Files of
the old folder that are no part of its bundle stay: links to them are put into the new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bundle import MANIFEST_FILE, open_manifest
from errors import ArtefactError, OutputError
from files import output_errors
from locks import exclusive

_AT_FDCWD, _EXCHANGE = -100, 2
_NO_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_LONGEST = 200
"""Characters of a bundle's name that its building folder repeats: names have 255 at most."""


@contextlib.contextmanager
def staged(root: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `root` when the block ends without an error.

    Args:
        root: of the bundle, which is made if it is not there, and stays what it is if the block fails.

    Raises:
        UsageError: if another export is writing that bundle.
        OutputError: if the folder cannot be written or replaced.
    """
    root = Path(os.path.realpath(root))
    # Longer names share a lock, and so do what they call their building folders.
    name = f".{root.name[:_LONGEST]}.export"
    with contextlib.ExitStack() as held:
        with output_errors(root):
            if os.path.ismount(root):
                raise OutputError(f"{root} is a mount point, and a bundle is replaced whole", "name a folder in it")
            made = not root.exists()
            root.mkdir(parents=True, exist_ok=True)
            held.callback(_remove_if_empty, root if made else None)
        held.enter_context(exclusive(root.parent / f"{name}.lock", f"{root} is being written by another export"))
        with output_errors(root):
            sweep(root, f"{name}-")
            beside = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root.parent))
            held.callback(shutil.rmtree, beside, ignore_errors=True)
            new = beside / "new"
            new.mkdir()
        yield new
        with output_errors(root):
            shutil.copymode(root, new)
            _keep_what_is_no_part_of_it(root, new)
            _swap(root, new, beside / "old")


def sweep(root: Path, prefix: str) -> None:
    """Remove what killed exports of a bundle left, whose lock the caller holds; put back a bundle that one was killed
    over, where a file system cannot exchange two folders."""
    for entry in root.parent.iterdir():
        ours = re.fullmatch(re.escape(prefix) + "[a-z0-9_]{8}", entry.name)
        if ours is None or not entry.is_dir() or entry.is_symlink():
            continue
        if (entry / "old").is_dir() and not any(root.iterdir()):
            os.replace(entry / "old", root)
        shutil.rmtree(entry, ignore_errors=True)


def carry_over(source: Path, target: Path) -> None:
    """Put a file into another folder, by a link where the file system has them.

    Raises:
        OSError: if neither link nor copy can be made.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _keep_what_is_no_part_of_it(root: Path, new: Path) -> None:
    try:
        own = {MANIFEST_FILE, *open_manifest(root).files}
    except ArtefactError:
        own = {MANIFEST_FILE}
    for entry in root.iterdir():
        target = new / entry.name
        if entry.name in own or os.path.lexists(target):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True, copy_function=_carry)
        else:
            carry_over(entry, target)


def _carry(source: str, target: str) -> str:
    carry_over(Path(source), Path(target))
    return target


def _swap(root: Path, new: Path, aside: Path) -> None:
    here = Path.cwd()
    if not _exchange(root, new):
        os.rename(root, aside)
        try:
            os.rename(new, root)
        except BaseException:
            os.rename(aside, root)
            raise
    if here.is_relative_to(root):
        with contextlib.suppress(OSError):
            os.chdir(here)  # of that name now, not the folder that is about to go


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(a))


def _remove_if_empty(root: Path | None) -> None:
    if root is not None:
        with contextlib.suppress(OSError):
            root.rmdir()
