"""The toolkit's errors: each carries one line for the user, one hint, and the command line's exit code.

Raise the narrowest class; `console.py` is the only place that catches them (exit codes: docs/DESIGN.md).
"""

from __future__ import annotations

import errno

EXIT_INTERRUPTED = 130

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the operating system calls it when a file cannot grow."""


class ToolkitError(Exception):
    """Base of every error that a user can cause or mend.

    Args:
        message: what was received and what was expected, one line.
        hint: how to mend it, one line; empty if there is nothing to say.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class OutputError(ToolkitError):
    """The result could not be written: disk full, folder not writable."""

    exit_code = 1


class UsageError(ToolkitError):
    """An option or argument is off in itself, whatever the input holds."""

    exit_code = 2


class UntrustedCodeError(UsageError):
    """Machine code out of a bundle would run, and nobody said that it may: a hash is no signature."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "--run-packages allows it, for bundles from whom you trust")


class InputError(ToolkitError):
    """An input file or array is not what it should be."""

    exit_code = 3


class MissingComponentError(ToolkitError):
    """A library, device or tool that was asked for is not there; the hint says what to install."""

    exit_code = 4


_TOOLKIT = "av1-partition-toolkit"

INSTALLED_BY = {
    "click": "click",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime-gpu",
    "PIL": "pillow",
} | {
    module: f"{_TOOLKIT}[{extra}]"
    for extra, modules in {
        "train": ("torch", "safetensors", "matplotlib"),
        "export": ("onnx", "onnxscript"),
        "video": ("av",),
        "engines": ("tensorrt_rtx",),
        "tensorrt": ("tensorrt",),
        "cluster": ("dask", "distributed"),
        "study": ("bjontegaard", "vmaf_torch"),
        "dev": ("polygraphy", "sklearn", "tritonclient"),
    }.items()
    for module in modules
}
"""What `pip install` is to be told for each module that others make: a distribution, or an extra of this one."""


def not_installed(module: str, otherwise: str = "") -> MissingComponentError:
    """The error for a module that cannot be imported since it is not there.

    Args:
        module: one of INSTALLED_BY, or a module in it.
        otherwise: what can be done instead, such as ", or no --output-dir".
    """
    top = module.partition(".")[0]
    wanted = INSTALLED_BY.get(top, top)
    quoted = f"'{wanted}'" if "[" in wanted else wanted
    return MissingComponentError(f"{top} is not installed", f"pip install {quoted}{otherwise}")


class ParityError(ToolkitError):
    """An artefact does not compute what the PyTorch reference computes."""

    exit_code = 5


class ArtefactError(ToolkitError):
    """A run or bundle is corrupt, incomplete or made by something else."""

    exit_code = 6


class ForeignArtefactError(ArtefactError):
    """An artefact is sound, but made for another GPU, driver or version of a runtime; the hint says how to remake."""


class DeviceError(ToolkitError):
    """The GPU or the runtime failed while it worked, with input that was in order."""

    exit_code = 7
