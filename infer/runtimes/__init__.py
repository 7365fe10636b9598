"""The runtimes, each a file of this folder that holds RUNTIME, or RUNTIMES if one library is several.

Another runtime is another file: the command line, `verify`, `bench` and Triton take their lists from here.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from bundle import BundleFile
from infer.runtime import Runtime


def _found() -> dict[str, Runtime]:
    runtimes: dict[str, Runtime] = {}
    for file in sorted(module.name for module in iter_modules(__path__)):
        module = import_module(f"{__name__}.{file}")
        for runtime in getattr(module, "RUNTIMES", None) or (module.RUNTIME,):
            runtimes[runtime.name] = runtime
    return runtimes


RUNTIMES = _found()
"""By name, in the order of their files."""

AUTO_ORDER = tuple(sorted((n for n, r in RUNTIMES.items() if r.auto is not None), key=lambda n: RUNTIMES[n].auto or 0))
"""What "auto" tries, in turn."""

REFERENCE = "torch"
"""The runtime that all others are compared with."""


def runtimes_of(entry: BundleFile) -> tuple[str, ...]:
    """The runtimes that take a bundle's file, in order; none if it computes nothing."""
    return tuple(name for name, runtime in RUNTIMES.items() if runtime.takes(entry))


def cpu_rows() -> tuple[tuple[str, str], ...]:
    """Every runtime that may run on a CPU, with each of its precisions."""
    return tuple((r.name, p) for r in RUNTIMES.values() if r.device != "cuda" for p in r.precisions)
