"""The whole report on a labelled set: of each level heads, types, candidate sets and bands of qindex; numpy only, so
that bundles are judged by the same code as runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from description import Level, Task, chain_rule
from errors import InputError
from partition import COVERED, QINDEX_BANDS
from train.measures.candidates import Keep, candidate_report, fit_keep, recorded_keep
from train.measures.decision import Decision, recorded_decision
from train.measures.metrics import columns_of, confusion, head_metrics, macro_f1, partition_metrics
from train.measures.rows import LevelRows, rows_of


@dataclass(frozen=True)
class Rules:
    """What was fitted on other pairs than those that are judged.

    Attributes:
        keep: thresholds of candidate sets; None to fit them on what is judged itself.
        decision: the rule for macro-F1; None leaves it out.
    """

    keep: Keep | None = None
    decision: Decision | None = None


def evaluate_logits(
    task: Task,
    logits: NDArray[np.floating],
    qindex: NDArray[np.integer],
    label: NDArray[np.integer],
    rules: Mapping[str, Rules] | None = None,
    split: str = "val",
) -> dict[str, Any]:
    """The whole report on a labelled set.

    Args:
        task: of the model.
        logits: float [M, task.logits].
        qindex: 0-255, integer [M].
        label: 0-9, COVERED or OUTSIDE (left out), integer [M, task.nodes].
        rules: of levels by suffix.
        split: a name for these pairs.

    Returns:
        If a block is one node, its level's report: heads (head_metrics), all (covered counted as NONE), nodes (covered
        left out), candidates (candidate_report, covered counted as NONE), and by_qindex: for every band that occurs,
        "low-high": {heads, all, nodes, candidates}; keep: threshold by share, and keep_fitted_on. With a decision also
        `decision`, and in all and nodes, everywhere, its decided_macro_f1 and decided_accuracy.
        Otherwise levels: such a report by node size, as text.

    Raises:
        InputError: if the set has no node of a level.
    """
    reports = {}
    for rows in rows_of(task, logits, qindex, label):
        if not len(rows.label):
            size = rows.level.node_size
            raise InputError(f"split '{split}' has no {size}x{size} node", "pictures must hold one wholly")
        reports[str(rows.level.node_size)] = _level_report(rows, (rules or {}).get(rows.suffix, Rules()), split)
    return next(iter(reports.values())) if task.one_node else {"levels": reports}


def _level_report(rows: LevelRows, rules: Rules, split: str) -> dict[str, Any]:
    level, decision = rows.level, rules.decision
    keep = rules.keep or fit_keep(chain_rule(rows.logits, level), columns_of(rows.label, level), split)

    def judged(probability: NDArray[np.floating], column: NDArray[np.integer]) -> dict[str, Any]:
        metrics = partition_metrics(probability, column, level)
        if decision is not None:
            matrix = confusion(column, decision.answer(probability), len(level.types))
            metrics |= {"decided_macro_f1": macro_f1(matrix), "decided_accuracy": float(np.trace(matrix) / len(column))}
        return metrics

    def report(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        part, truth = rows.logits[chosen], rows.label[chosen]
        probability, column = chain_rule(part, level), columns_of(truth, level)
        nodes = truth != COVERED
        result: dict[str, Any] = {"heads": head_metrics(part, truth, level)}
        result["all"] = judged(probability, column)
        if nodes.any():
            result["nodes"] = judged(probability[nodes], column[nodes])
        result["candidates"] = candidate_report(probability, column, keep)
        return result

    whole = report(np.ones(len(rows.label), bool))
    bands = {f"{low}-{high}": (rows.qindex >= low) & (rows.qindex <= high) for low, high in QINDEX_BANDS}
    whole["by_qindex"] = {name: report(chosen) for name, chosen in bands.items() if chosen.any()}
    if decision is not None:
        whole["decision"] = decision.to_json()
    return whole | {"keep": dict(keep.thresholds), "keep_fitted_on": keep.fitted_on}


def level_reports(report: Mapping[str, Any]) -> dict[str, Any]:
    """The reports of each level by the level's suffix (Task.suffix), of what evaluate_logits returns."""
    return {f"_{size}": each for size, each in report["levels"].items()} if "levels" in report else {"": dict(report)}


def recorded_rules(evaluation: object, task: Task) -> dict[str, Rules]:
    """The rules of each level, by its suffix, that an evaluation holds, of a run.json or a manifest.

    Raises:
        ValueError: if it is malformed.
    """
    if not isinstance(evaluation, Mapping):
        raise ValueError("its evaluation is no object")
    found = {}
    for level in task.levels:
        part: object = evaluation if task.one_node else _part(evaluation, level)
        if not isinstance(part, Mapping):
            raise ValueError(f"its evaluation of {level.node_size}x{level.node_size} nodes is no object")
        found[task.suffix(level)] = Rules(recorded_keep(part), recorded_decision(part, level))
    return found


def _part(evaluation: Mapping[str, Any], level: Level) -> object:
    levels = evaluation.get("levels", {})
    return levels.get(str(level.node_size), {}) if isinstance(levels, Mapping) else levels


def all_heads(task: Task, logits: NDArray[np.floating], label: NDArray[np.integer]) -> dict[str, dict[str, float]]:
    """head_metrics of every head of every level, by its key in PartitionModel.heads.

    Args:
        task: of the model.
        logits: float [M, task.logits].
        label: 0-9, COVERED or OUTSIDE, integer [M, task.nodes].
    """
    nowhere = np.zeros(len(label), np.int64)
    return {
        name + rows.suffix: metrics
        for rows in rows_of(task, logits, nowhere, label)
        for name, metrics in head_metrics(rows.logits, rows.label, rows.level).items()
    }
