"""Kind "weights": the unfolded model, which everything else in the bundle is held against."""

from __future__ import annotations

from description import Task
from export.plan import ExportTask, Work
from train.checkpoint import model_bytes

FILE = "model.safetensors"


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check: every bundle has them."""


def write(work: Work) -> None:
    """As Writer.write."""
    work.add(FILE, model_bytes(work.run.model), "weights", "fp32")
