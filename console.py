"""What the command line shows besides results: one line for an error, and progress of long work.

The error boundary is the one place where errors become exit codes (docs/DESIGN.md, Exit codes).
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import io
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from errors import (
    EXIT_INTERRUPTED,
    FULL_DISK,
    INSTALLED_BY,
    InputError,
    MissingComponentError,
    OutputError,
    ToolkitError,
    UsageError,
    not_installed,
)

EXIT_INTERNAL = 70

_LONG_WORD = 200
_TORCH_IS_OUT_OF_MEMORY = "can't allocate memory"
# Met between our own look at a file and a library's.
_OF_A_FILE = frozenset(
    {
        errno.EACCES,
        errno.EIO,
        errno.ELOOP,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)


class ErrorBoundary(click.Group):
    """Turns every error into one line, one hint and an exit code; a traceback only with --debug."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **__: Any) -> Any:
        """As click's, except that --debug may stand anywhere and that nothing but SystemExit comes out."""
        given = list(sys.argv[1:] if args is None else args)
        with error_boundary("--debug" in given):
            # click's own main would print a blank line on Ctrl-C, and take a closed pipe for a success.
            try:
                with self.make_context(
                    prog_name or Path(sys.argv[0]).name, [a for a in given if a != "--debug"]
                ) as context:
                    self.invoke(context)
            except click.exceptions.Exit as done:
                sys.exit(done.exit_code)
        sys.exit(0)


@contextmanager
def error_boundary(debug: bool = False) -> Iterator[None]:
    """Within it every error ends the program with one line, one hint and an exit code.

    Args:
        debug: print the traceback too, and let through what libraries warn of.
    """
    _let_sigterm_interrupt()
    _lend_a_name()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    with contextlib.nullcontext() if debug else _quiet_libraries():
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exception(error)
            message, hint, code = _verdict(error)
            _complain(message, "; ".join(filter(None, [*_notes(error), hint])))
            _give_up_stdout()
            sys.exit(code)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Within it libraries' warnings go nowhere: they are for programmers, and name this machine's folders."""
    shown, handler = warnings.showwarning, logging.NullHandler()
    warnings.showwarning = lambda *_, **__: None
    # Without a handler, logging prints to stderr what it holds to be grave.
    logging.getLogger().addHandler(handler)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # in processes that this one starts
    try:
        yield
    finally:
        warnings.showwarning = shown
        logging.getLogger().removeHandler(handler)


def say(text: str) -> None:
    """A line, or several, of what was read, used, written or found; a progress bar on the same terminal goes first."""
    click.echo(("\r\033[K" if sys.stderr.isatty() and sys.stdout.isatty() else "") + text)


def say_json(as_json: bool, result: dict[str, Any]) -> None:
    """The result as one line of JSON, if --json asked for it."""
    if as_json:
        click.echo(json.dumps(result))


def _let_sigterm_interrupt() -> None:
    """What Ctrl-C cleans up or saves, `kill` and schedulers' time limits must too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _lend_a_name() -> None:
    """torch names a folder by its user, and ids that only a container knows have no name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"


def _verdict(error: BaseException) -> tuple[str, str, int]:
    """Message, hint and exit code of an error; only what is a bug of ours has the last one."""
    if _is_interrupt(error):
        hint = "train goes on with --resume, dataset build and experiment by themselves; everything else starts over"
        return "interrupted", hint, EXIT_INTERRUPTED
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] in INSTALLED_BY:
        error = not_installed(error.name)
    if isinstance(error, ToolkitError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, click.ClickException):
        command = getattr(error, "ctx", None)
        path = command.command_path if command else "cli.py"
        return error.format_message(), f"{path} --help lists what there is", UsageError.exit_code
    return _verdict_of_system(error) or (
        f"unexpected {type(error).__name__}: {error}",
        "run again with --debug and report it",
        EXIT_INTERNAL,
    )


def _verdict_of_system(error: BaseException) -> tuple[str, str, int] | None:
    """The verdict on what this machine refused or ran out of; None for everything else."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _TORCH_IS_OUT_OF_MEMORY in str(error)):
        hint = "take smaller frames or batches, fewer --jobs, or a machine with more"
        return "this machine has too little memory for that", hint, OutputError.exit_code
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return "disk full", "free some space and run again", OutputError.exit_code
    if isinstance(error, BrokenPipeError):
        return "what reads this output has gone", "", OutputError.exit_code
    if isinstance(error, ImportError) and error.name and error.name.partition(".")[0] in INSTALLED_BY:
        name = error.name.partition(".")[0]
        hint = f"pip install --force-reinstall '{INSTALLED_BY[name]}'"
        return f"{name} is installed, but does not load: {error}", hint, MissingComponentError.exit_code
    if isinstance(error, OSError) and error.errno in _OF_A_FILE and error.filename is not None:
        return (
            f"{os.fsdecode(error.filename)}: {error.strerror}",
            "look at the path, and who may read it",
            InputError.exit_code,
        )
    return None


def _notes(error: BaseException | None) -> list[str]:
    """What was noted on an error, or on those it came up with: such as where finished work was saved."""
    found: list[str] = []
    while error is not None:
        found += getattr(error, "__notes__", [])
        error = error.__cause__ or error.__context__
    return list(dict.fromkeys(found))


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether the error is an interrupt, or came up while one unwound, as from a zip file that was half written."""
    while error is not None and not isinstance(error, (click.Abort, KeyboardInterrupt)):
        error = error.__context__
    return error is not None


def _complain(message: str, hint: str) -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    for label, text in (("error", message), ("hint", hint)):
        if text:
            click.echo(f"{label}: " + one_line(text), err=True)


def one_line(text: str) -> str:
    """A text in one line that a terminal can be shown: no control characters, no words of thousands of letters."""
    words = (f"{w[:_LONG_WORD]}..." if len(w) > 2 * _LONG_WORD else w for w in text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(words))


def _give_up_stdout() -> None:
    """Keep Python from trying once more, at exit and with a traceback, to write what stdout has just refused."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ProgressLine:
    """Progress of long work on stderr: a bar on a terminal, a plain line every tenth of the way elsewhere; where
    nobody knows the total (0), each time the work done has doubled."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        self._start, self._done, self._step = self._last, 0, 0

    def __call__(self, done: int, total: int, text: str) -> None:
        """As progress.Progress."""
        if done <= self._done:  # other work has begun, such as the next stage
            self._begin()
        self._done, self._last = done, time.monotonic()
        if not done:  # it says itself that it begins now
            self._start = self._last
        elapsed = self._last - self._start
        if total:
            share, step = done / total, 10 * done // total
            head = f"{int(100 * share)} %, {elapsed * (1 - share) / max(share, 1e-9):.0f} s left"
            bar = f"[{'#' * int(30 * share):<30}] "
        else:
            step, head, bar = done.bit_length(), f"{done:,} done in {elapsed:.0f} s", ""
        if self._terminal:
            click.echo(f"\r{bar}{head}, {text}\033[K", nl=False, err=True)
            if done == total:
                click.echo("\r\033[K", nl=False, err=True)
        elif step > self._step:
            click.echo(f"{head}, {text}", err=True)
        self._step = step
