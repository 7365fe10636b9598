"""TensorRT and TensorRT for RTX behind one name: the same Python API in two modules that are never mixed.

    tensorrt        the full runtime, 10.3 to 11.x: builds on the GPU that the engine is for
    tensorrt_rtx    for RTX GPUs from 7.5 to 12.x, not 9.0: builds anywhere, compiles the rest on load

What one has and the other has not is asked of the module (`has`), never concluded from a version number.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from errors import MissingComponentError, not_installed

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_WHERE = {
    "tensorrt": ", from NVIDIA's package index; for RTX GPUs there is --engine tensorrt-rtx",
    "tensorrt-rtx": " (Linux or Windows on x86-64)",
}


@dataclass(frozen=True)
class Library:
    """One of the two, imported.

    Attributes:
        runtime: a key of MODULES.
        module: the Python module.
    """

    runtime: str
    module: Any

    @property
    def version(self) -> str:
        """All of it, such as "1.7.1.116"."""
        return str(self.module.__version__)

    @property
    def release(self) -> str:
        """The first three numbers, for file names."""
        return release_of(self.version)

    def has(self, path: str) -> bool:
        """Whether the module has a name, such as "BuilderFlag.TF32"."""
        value = self.module
        for name in path.split("."):
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True


def release_of(version: str) -> str:
    """The first three numbers of a version."""
    return ".".join(version.split(".")[:3])


def open_library(runtime: str) -> Library:
    """Import a TensorRT.

    Args:
        runtime: a key of MODULES.

    Raises:
        MissingComponentError: if it is not installed, or its libraries do not load.
    """
    try:
        module = importlib.import_module(MODULES[runtime])
    except ModuleNotFoundError as error:
        raise not_installed(error.name or MODULES[runtime], _WHERE[runtime]) from None
    except (ImportError, OSError, RuntimeError) as error:
        hint = not_installed(MODULES[runtime], _WHERE[runtime]).hint
        raise MissingComponentError(f"{MODULES[runtime]} does not load: {error}", hint) from None
    return Library(runtime, module)


def make_log(library: Library) -> Any:
    """A logger that keeps everything above TensorRT's own chatter.

    Returns:
        An ILogger with `lines`, a list of "SEVERITY: text", and `first_error`, a line or "".
    """
    base = library.module.ILogger

    class Log(base):  # type: ignore[misc,valid-type]
        """Keeps lines instead of printing them."""

        def __init__(self) -> None:
            base.__init__(self)
            self.lines: list[str] = []
            self.first_error = ""

        def log(self, severity: Any, text: str) -> None:
            if severity == base.VERBOSE:
                return
            line = " ".join(str(text).split())
            self.lines.append(f"{severity.name}: {line}")
            # The first error is the cause; what follows in the same call are its consequences.
            if severity in (base.ERROR, base.INTERNAL_ERROR):
                self.first_error = self.first_error or line

    return Log()
