"""The kinds of file that a bundle holds, each a module of this folder with its writer.

Another kind is another module, and its name below: `check` refuses a request before any work begins, `write` writes the
files. Which runtimes take them is theirs to say (infer/runtimes/).
"""

from __future__ import annotations

from typing import Protocol

from description import Task
from export.artefacts import blob, calibration, engine, onnx, package, reference, report, weights
from export.plan import ExportTask, Work


class Writer(Protocol):
    """What each module has."""

    def check(self, task: ExportTask, reads: Task) -> None:
        """Refuse what cannot be written.

        Args:
            task: what was asked for.
            reads: what the model reads and answers.

        Raises:
            ToolkitError: UsageError for options that contradict each other, MissingComponentError for what is not here.
        """
        ...

    def write(self, work: Work) -> None:
        """Write the files of this kind that the task asks for, and enter them into work.files.

        Raises:
            ToolkitError: if one cannot be made, or does not compute what the model computes.
        """
        ...


COMPUTING: tuple[Writer, ...] = (weights, reference, onnx, calibration, package, engine, blob)
"""In the order in which they write."""

WRITERS: tuple[Writer, ...] = (*COMPUTING, report)
"""`report` draws what is known once all others are certified."""
