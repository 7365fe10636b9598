"""Kind "calibration": the ranges by which int8 files were quantised; never blocks."""

from __future__ import annotations

import json

from description import Task
from export.onnx_int8 import CALIBRATION_PAIRS
from export.plan import ExportTask, Work

FILE = "model.int8.calibration.json"


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check: it comes with int8 files."""


def write(work: Work) -> None:
    """As Writer.write, behind the ONNX files."""
    if work.ranges:
        of = {"pairs": CALIBRATION_PAIRS, "of": "the training split of the embedded sample", "ranges": work.ranges}
        work.add(FILE, (json.dumps(of, indent=1) + "\n").encode(), "calibration", "int8")
