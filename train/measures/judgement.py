"""The whole report on a labelled set: heads, types, candidate sets, overall and by band of qindex, level by level.

numpy only, so that bundles are judged by the same code as runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from description import Level, Task, chain_rule
from partition import COVERED, QINDEX_BANDS
from train.measures.candidates import Keep, candidate_report, fit_keep, recorded_keep
from train.measures.decision import Decision, recorded_decision
from train.measures.metrics import as_none, confusion, head_metrics, macro_f1, partition_metrics
from train.measures.rows import LevelRows, level_rows


@dataclass(frozen=True)
class Fits:
    """What was fitted for one level on pairs that are not judged.

    Attributes:
        keep: thresholds of candidate sets; None fits them on the judged pairs themselves.
        decision: the rule for macro-F1; None leaves it out.
    """

    keep: Keep | None = None
    decision: Decision | None = None


def classes_of(label: NDArray[np.integer], level: Level) -> NDArray[np.int64]:
    """Column of `probability` of each label, int64 [K]; COVERED counts as NONE."""
    return level.columns[as_none(label)]


def evaluate_level(
    logits: NDArray[np.floating],
    qindex: NDArray[np.integer],
    label: NDArray[np.integer],
    level: Level,
    keep: Keep | None = None,
    decision: Decision | None = None,
) -> dict[str, Any]:
    """The whole report on the nodes of one level.

    Args:
        logits: float [K, level.logits].
        qindex: 0-255, integer [K].
        label: partition id or COVERED, integer [K].
        level: whose nodes they are.
        keep: thresholds of candidate sets; None fits them on these nodes themselves, as "val".
        decision: the rule for macro-F1, fitted on other nodes than these; None leaves it out.

    Returns:
        heads (head_metrics), all (covered counted as NONE), nodes (covered left out), candidates (candidate_report,
        covered counted as NONE), and by_qindex: for every band that occurs, "low-high": {heads, all, nodes,
        candidates}; keep: threshold by share, and keep_fitted_on. With a decision also `decision`, and in all and
        nodes, everywhere, its decided_macro_f1 and decided_accuracy.
    """
    keep = keep or fit_keep(chain_rule(logits, level), classes_of(label, level), "val")

    def judged(probability: NDArray[np.floating], truth: NDArray[np.integer]) -> dict[str, Any]:
        metrics = partition_metrics(probability, truth, level)
        if decision is not None:
            matrix = confusion(truth, decision.answer(probability), len(level.types))
            metrics |= {"decided_macro_f1": macro_f1(matrix), "decided_accuracy": float(np.trace(matrix) / len(truth))}
        return metrics

    def report(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        part, truth = logits[chosen], label[chosen]
        probability, classes = chain_rule(part, level), classes_of(truth, level)
        nodes = truth != COVERED
        result: dict[str, Any] = {"heads": head_metrics(part, truth, level)}
        result["all"] = judged(probability, classes)
        if nodes.any():
            result["nodes"] = judged(probability[nodes], classes[nodes])
        result["candidates"] = candidate_report(probability, classes, keep)
        return result

    whole = report(np.ones(len(label), bool))
    bands = {f"{low}-{high}": (qindex >= low) & (qindex <= high) for low, high in QINDEX_BANDS}
    whole["by_qindex"] = {name: report(chosen) for name, chosen in bands.items() if chosen.any()}
    if decision is not None:
        whole["decision"] = decision.to_json()
    return whole | {"keep": dict(keep.thresholds), "keep_fitted_on": keep.fitted_on}


def evaluate_logits(
    logits: NDArray[np.floating],
    qindex: NDArray[np.integer],
    label: NDArray[np.integer],
    task: Task,
    fits: Mapping[int, Fits] | None = None,
) -> dict[str, Any]:
    """The whole report on a labelled set of blocks.

    Args:
        logits: float [M, task.logits].
        qindex: 0-255, integer [M].
        label: partition id, COVERED or OUTSIDE of each node, integer [M, task.nodes].
        task: whose arrays these are.
        fits: what was fitted on other pairs, by node size.

    Returns:
        Of a task of one node `evaluate_level`'s report; else {"levels": that report by node size}. A level without a
        node inside a frame is left out.
    """
    reports = {}
    for rows in level_rows(logits, label, task):
        if len(rows.label):
            fit = (fits or {}).get(rows.level.node_size, Fits())
            reports[str(rows.level.node_size)] = _judge(rows, qindex, fit)
    return next(iter(reports.values())) if task.one_node else {"levels": reports}


def _judge(rows: LevelRows, qindex: NDArray[np.integer], fit: Fits) -> dict[str, Any]:
    return evaluate_level(rows.logits, qindex[rows.pair], rows.label, rows.level, fit.keep, fit.decision)


def level_reports(evaluation: Mapping[str, Any], task: Task) -> dict[int, Mapping[str, Any]]:
    """The report of each level, by node size, out of `evaluate_logits`'s, a run.json's or a manifest's.

    Args:
        evaluation: may be empty, or lack levels.
        task: whose it is.

    Raises:
        ValueError: if there are none where they should be.
    """
    levels = {str(task.levels[0].node_size): evaluation} if task.one_node else evaluation.get("levels", {})
    if not isinstance(levels, Mapping) or not all(isinstance(report, Mapping) for report in levels.values()):
        raise ValueError("its metrics are no reports of levels")
    sizes = [level.node_size for level in task.levels]
    return {size: levels[str(size)] for size in sizes if levels.get(str(size))}


def recorded_fits(evaluation: object, task: Task) -> dict[int, Fits]:
    """Thresholds and rules that a run.json's evaluation or a manifest's metrics hold, by node size.

    Raises:
        ValueError: if they are malformed.
    """
    if not isinstance(evaluation, Mapping):
        raise ValueError("its metrics are no object")
    fits = {}
    for size, report in level_reports(evaluation, task).items():
        fits[size] = Fits(recorded_keep(report), recorded_decision(report))
        decision, types = fits[size].decision, len(task.level(size).types)
        if decision is not None and len(decision.gain) != types:
            raise ValueError(f"its decision rule is of {len(decision.gain)} types, not of {types}")
    return fits


def all_heads(logits: NDArray[np.floating], label: NDArray[np.integer], task: Task) -> dict[str, dict[str, float]]:
    """head_metrics of every head of every level, by its name in PartitionModel.heads.

    Args:
        logits: float [M, task.logits].
        label: partition id, COVERED or OUTSIDE of each node, integer [M, task.nodes].
        task: whose arrays these are.
    """
    return {
        name + task.suffix(rows.level): metrics
        for rows in level_rows(logits, label, task)
        for name, metrics in head_metrics(rows.logits, rows.label, rows.level).items()
    }
