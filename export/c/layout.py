"""Where each row lies while a program runs: a slot holds one value of every block of a batch, and is used again once
nothing reads its row any more.

    slot   0 ...    | ...                             rows of bytes take a quarter of their values in slots
           logits   | luma, then whatever is alive
"""

from __future__ import annotations

from dataclasses import dataclass

from export.c.ops import LUMA, Op, Program


@dataclass(frozen=True)
class Layout:
    """Attributes:
    slots: how many there are.
    of: first slot of each row by name.
    bytes_of: the same for rows of bytes.
    """

    slots: int
    of: dict[str, int]
    bytes_of: dict[str, int]


@dataclass
class _Life:
    """First and last operation that needs a row, and its slots."""

    first: int
    last: int
    size: int


def lay_out(program: Program) -> Layout:
    """Slots for every row that is needed, first fit, in the order in which they are made."""
    lives = _lives(program)
    fixed, end = {}, 0
    for name, size in program.logits:
        fixed[name, False] = end
        end += size
    placed: dict[tuple[str, bool], int] = dict(fixed)
    top = end
    for key, life in sorted(lives.items(), key=lambda item: item[1].first):
        if key in fixed:
            continue
        others = [k for k in placed if k not in fixed and lives[k].last >= life.first and lives[k].first <= life.last]
        start = end
        for other in sorted(others, key=lambda k: placed[k]):
            if placed[other] - start >= life.size:
                break
            start = max(start, placed[other] + lives[other].size)
        placed[key] = start
        top = max(top, start + life.size)
    return Layout(
        top,
        {name: at for (name, as_bytes), at in placed.items() if not as_bytes},
        {name: at for (name, as_bytes), at in placed.items() if as_bytes},
    )


def _lives(program: Program) -> dict[tuple[str, bool], _Life]:
    """By name and whether it is the row of bytes; a row that nothing reads in a form has none in it."""
    made = {op.out: (i, op.size) for i, op in enumerate(program.ops)} | {LUMA: (-1, program.samples)}
    lives: dict[tuple[str, bool], _Life] = {}

    def read(name: str, as_bytes: bool, at: int) -> None:
        first, size = made[name]
        life = lives.setdefault((name, as_bytes), _Life(first, at, -(-size // 4) if as_bytes else size))
        life.last = max(life.last, at)

    for i, op in enumerate(program.ops):
        for name in _beside(op):
            read(name, False, i)
        if op.source:
            read(op.source, op.row is not None, i)
    for name, _ in program.logits:
        read(name, False, len(program.ops))
    return lives


def _beside(op: Op) -> list[str]:
    return [o.value for o in (op.pre, op.scale, op.shift) if o is not None]
