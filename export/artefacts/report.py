"""Kind "report": pictures of certificates. An engine's build log, a report too, comes with the engine."""

from __future__ import annotations

from description import Task
from export.plan import ExportTask, Work
from infer.certificate import Certificate
from infer.parity_figure import draw_parity


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check: whatever is certified is drawn."""


def write(work: Work) -> None:
    """As Writer.write, once all files have their certificates."""
    for name, entry in list(work.files.items()):
        made = {key: Certificate.from_json(c) for key, c in entry.parity.items() if "not run" not in c}
        if made:
            work.add(f"{name}.parity.png", draw_parity(made), "report")
