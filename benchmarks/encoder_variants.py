"""The variants of the encoder study: which partition maps a unit is encoded with, and why.

Each is a value; benchmarks.encoder_rows encodes it, the result files and the figure know it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.masks import random_masks

Masks = NDArray[np.uint16]
"""Of all whole nodes, uint16 [frames, height // 16, width // 16]; bit k allows type k."""

TAKEN_APART = "0.98"
"""The share of which is shown what its sets are made of."""
TAKEN_APART_AT = 2
"""The preset at which that is done."""


@dataclass(frozen=True)
class Known:
    """What masks can be made of.

    Attributes:
        predicted: the bundle's candidates, by share of true types kept.
        true: NONE and what the normal encode chose.
    """

    predicted: Mapping[str, Masks]
    true: Masks


@dataclass(frozen=True)
class Variant:
    """One way to encode a unit.

    Attributes:
        name: in rows and results.
        meaning: what it is.
        masks: makes its map; None encodes without one.
        is_predicted: whether the time of prediction is part of its own.
        options: further words for av1part-enc.
    """

    name: str
    meaning: str
    masks: Callable[[Known], Masks] | None
    is_predicted: bool = False
    options: tuple[str, ...] = ()


NORMAL = Variant("normal", "libaom alone", None)
ORACLE = Variant("oracle", "NONE and what the normal encode chose", lambda known: known.true)
NONE = Variant("none", "NONE alone", lambda known: np.ones_like(known.true))
RANDOM = Variant("random", "NONE and one type drawn evenly", lambda known: random_masks(known.true.shape, 0))
REPAIRED = Variant(
    "repaired",
    f"the candidates of {TAKEN_APART} and what the normal encode chose: what wrong sets cost",
    lambda known: known.predicted[TAKEN_APART] | known.true,
    is_predicted=True,
)
WHOLE = Variant(
    "whole",
    f"the candidates of {TAKEN_APART}, 8x8 nodes of SPLIT searched too: what leaving them unsplit gains, and costs",
    lambda known: known.predicted[TAKEN_APART],
    is_predicted=True,
    options=("--whole-split",),
)


def keeping(share: str) -> Variant:
    """The bundle's candidates at the threshold that keeps that share of true types."""
    meaning = f"the candidates that keep {100 * float(share):g} % of true types"
    return Variant(f"keep-{share}", meaning, lambda known: known.predicted[share], is_predicted=True)


def variants_of(shares: Sequence[str], cpu_used: int) -> tuple[Variant, ...]:
    """Every variant of a unit, in order; NORMAL, on which others rest, first.

    Args:
        shares: of true types to keep, such as "0.98".
        cpu_used: the unit's preset.
    """
    apart = (REPAIRED, WHOLE) if TAKEN_APART in shares and cpu_used == TAKEN_APART_AT else ()
    return (NORMAL, *map(keeping, shares), *apart, ORACLE, NONE, RANDOM)


def meanings(shares: Sequence[str]) -> dict[str, str]:
    """What each variant is, by name: those of all presets."""
    return {v.name: v.meaning for v in variants_of(shares, TAKEN_APART_AT)}
