"""A task as numbers that C reads without parsing text, one 32-bit word each (export/c/source/av1part_task.h):

unit, border, levels                            samples; then for each level, from the largest nodes down
  node size, types, heads, logits
  [id of each type, ascending]
  [logits of each head, in the order in which they lie]
  for each type: count, [logits whose softmaxes, each within its head, are multiplied]
"""

from __future__ import annotations

from description import Level, Task


def task_table(task: Task) -> list[int]:
    """The words of a task; its name and the names of its heads are left to the text."""
    words = [task.input.unit, task.input.border, len(task.levels)]
    return words + [word for level in task.levels for word in _level_words(level)]


def _level_words(level: Level) -> list[int]:
    widths = [len(head.classes) for head in level.heads]
    words = [level.node_size, len(level.types), len(widths), level.logits, *map(int, level.types), *widths]
    return words + [word for path in level.factors for word in (len(path), *path)]
