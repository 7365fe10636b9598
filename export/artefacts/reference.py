"""Kind "reference": the reference's answers on blocks of the embedded sample, so that `verify` needs no torch."""

from __future__ import annotations

import io

import numpy as np

from bundle import REFERENCE_FILE
from description import Task
from export.plan import ExportTask, Work


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check: every bundle has one."""


def write(work: Work) -> None:
    """As Writer.write: blocks uint8 [N, S, S], qindex uint8 [N], logits float32 [N, task.logits]."""
    chosen, buffer = work.travelling, io.BytesIO()
    np.savez_compressed(buffer, blocks=chosen.blocks[chosen.block], qindex=chosen.qindex, logits=chosen.logits)
    work.add(REFERENCE_FILE, buffer.getvalue(), "reference")
