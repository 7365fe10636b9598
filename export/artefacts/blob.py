"""Kind "blob": what the C library runs, in each of its precisions."""

from __future__ import annotations

from description import Task
from errors import UsageError
from export.c.write import PRECISIONS, blob_name, make_blob, require_one_node
from export.plan import ExportTask, Work


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check."""
    if not task.blob:
        return
    if not task.fold or not precisions(task):
        raise UsageError("a blob needs a folded model in fp32 or int8", "add --fold-bn --precision fp32,int8")
    require_one_node(reads)


def write(work: Work) -> None:
    """As Writer.write."""
    if not work.task.blob:
        return
    for precision in precisions(work.task):
        content = make_blob(work.run.model, precision, work.keep, work.run.sha256, work.announce)
        work.add(blob_name(precision), content, "blob", precision)


def precisions(task: ExportTask) -> tuple[str, ...]:
    """Those asked for that the C library has."""
    return tuple(each for each in task.precisions if each in PRECISIONS)
