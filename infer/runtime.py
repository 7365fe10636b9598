"""What the toolkit knows of a runtime before it loads any library of it."""

from __future__ import annotations

from dataclasses import dataclass

from bundle import BundleFile
from infer.session import Opener


@dataclass(frozen=True)
class Runtime:
    """One way to run a bundle. A file of infer/runtimes/ holds one as RUNTIME, or several as RUNTIMES.

    Attributes:
        name: what --runtime calls it.
        kinds: of the bundle's files that it takes.
        precisions: that it computes in, the usual one first.
        device: "cpu" or "cuda"; "any" if that is the file's choice.
        open: opens a session on a bundle; called when everything below is there.
        made_by: options of `cli.py export` that write its file, {precision} and {form} filled in; empty for what every
            export writes.
        requires: a module of errors.INSTALLED_BY; None if none is needed.
        auto: its place in the order that "auto" tries; None where "auto" never takes it.
        runs_code: whether it runs machine code out of the bundle, of which a hash says nothing.
    """

    name: str
    kinds: tuple[str, ...]
    precisions: tuple[str, ...]
    device: str
    open: Opener
    made_by: str = ""
    requires: str | None = None
    auto: int | None = None
    runs_code: bool = False

    def takes(self, entry: BundleFile) -> bool:
        """Whether it runs a bundle's file: that kind, a precision that it has, and not another runtime's engine."""
        record = entry.engine or entry.package
        own = record.get("runtime", self.name) == self.name
        return entry.kind in self.kinds and own and self.precision_of(entry) in self.precisions

    def precision_of(self, entry: BundleFile) -> str:
        """What it computes a file in: weights are compiled here, into what the runtime is for."""
        return self.precisions[0] if entry.kind == "weights" else entry.precision
