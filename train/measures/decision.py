"""The decision that maximises macro-F1, instead of the most probable type, which hardly ever is one of the rare ones.

Answering type c once more, for a pair that is c with probability p, changes its F1 by about

    dF = (2 p - F) / (true + answered),       F = 2 hits / (true + answered)

so the answer that gains most is the c of the largest gain[c] p[c] - cost[c], with gain = 2 / (true + answered) and
cost = F / (true + answered); both depend on the answers, and are found by repetition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.measures.metrics import confusion, f1_scores, macro_f1

ROUNDS = 60
STEP = 0.3


@dataclass(frozen=True)
class Decision:
    """Answer the type with the largest gain * probability - cost.

    Attributes:
        gain, cost: by column of `probability`; the largest gain is 1.
        fitted_on: what they were fitted on, such as "calib".
    """

    gain: tuple[float, ...]
    cost: tuple[float, ...]
    fitted_on: str

    def answer(self, probability: NDArray[np.floating]) -> NDArray[np.int64]:
        """Column of each node's answer, int64 [K], from probabilities float [K, types]."""
        return (probability * np.array(self.gain) - np.array(self.cost)).argmax(1)

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json and the manifest."""
        return asdict(self) | {"gain": list(self.gain), "cost": list(self.cost)}


def fit_decision(probability: NDArray[np.floating], label: NDArray[np.integer], fitted_on: str) -> Decision:
    """The rule with the best macro-F1 of those that the repetition meets, the plain argmax among them.

    Args:
        probability: float [K, types], K at least 1.
        label: column of each node's type, integer [K].
        fitted_on: a name for these nodes.
    """
    classes = probability.shape[1]
    true = np.bincount(label, minlength=classes).astype(float)
    gain, cost = np.ones(classes), np.zeros(classes)
    best, best_f1 = (gain, cost), -1.0
    for _ in range(ROUNDS):
        matrix = confusion(label, (probability * gain - cost).argmax(1), classes)
        if macro_f1(matrix) > best_f1:
            best, best_f1 = (gain, cost), macro_f1(matrix)
        total = np.maximum(true + matrix.sum(0), 1.0)
        towards_gain, towards_cost = 2.0 / total, np.nan_to_num(f1_scores(matrix)) / total
        scale = towards_gain.max()
        gain = gain + STEP * (towards_gain / scale - gain)
        cost = cost + STEP * (towards_cost / scale - cost)
    gain, cost = best[0] / best[0].max(), best[1] / best[0].max()
    return Decision(tuple(map(float, gain)), tuple(map(float, cost)), fitted_on)


def recorded_decision(evaluation: Mapping[str, Any]) -> Decision | None:
    """The rule that a level's report in run.json or a manifest holds; None if it holds none.

    Raises:
        ValueError: if what it holds is no such rule.
    """
    values = evaluation.get("decision")
    if values is None:
        return None
    try:
        gain, cost = (tuple(float(v) for v in values[key]) for key in ("gain", "cost"))
        if not all(map(math.isfinite, gain + cost)) or len(gain) != len(cost):
            raise ValueError("gain and cost are numbers, as many of one as of the other")
        return Decision(gain, cost, str(values["fitted_on"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its decision rule is malformed: {error}") from None
