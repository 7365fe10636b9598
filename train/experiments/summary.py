"""What the finished runs of an experiment say: a JSON of all figures, a table in Markdown, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from errors import InputError
from train.experiments.arms import Arm, Experiment
from train.experiments.interval import Interval, interval, paired_difference, verdict
from train.experiments.jobs import Task

FIGURES = ("macro_f1", "log_loss", "train_macro_f1", "gap", "last_macro_f1", "best_epoch", "epochs_run")
MORE_FIGURES = ("loss_variance", "stage1_before", "stage1_after")
DRIFTS = ("bn_mean", "bn_var", "feature_l2", "feature_cka")


def summarise(experiment: Experiment, tasks: Sequence[Task]) -> dict[str, Any]:
    """All figures of an experiment over the seeds that every arm of a group has finished.

    Returns:
        question; about: recipe, dataset hash, machine and torch of the runs; groups: for each baseline its rows, the
        baseline first: arm, seeds, values (by figure, one for each seed; drift at the last epoch), mean and half (95 %
        over seeds) by figure, drift (by epoch, mean over seeds), difference from the baseline in macro_f1 (mean,
        half) and verdict; these two are missing in the baseline's own row. left_out: baselines of groups with fewer
        than two seeds whose runs are all finished.

    Raises:
        InputError: if every group is left out.
    """
    found = {(t.arm.key, t.seed): t.finished() for t in tasks if t.arm is not None}
    groups, about, left_out = [], {}, []
    for baseline, others in experiment.pairs:
        arms = (baseline, *others)
        seeds = [s for s in range(experiment.seeds) if all(found.get((arm.key, s)) for arm in arms)]
        if len(seeds) < 2:
            left_out.append(baseline.name)
            continue
        runs = {arm.name: [found[arm.key, s] or {} for s in seeds] for arm in arms}
        first = runs[baseline.name][0]
        about = {k: first["identity"][k] for k in ("recipe", "dataset_sha256")}
        about |= {k: first[k] for k in ("machine", "torch")}
        groups.append([_row(arm, baseline, runs, seeds) for arm in arms])
    if not groups:
        raise InputError(f"'{left_out[0]}' has no two seeds whose runs are all finished", "run the rest")
    return {"question": experiment.question, "about": about, "groups": groups, "left_out": left_out}


def _row(arm: Arm, baseline: Arm, runs: Mapping[str, list[dict[str, Any]]], seeds: list[int]) -> dict[str, Any]:
    results = [run["result"] for run in runs[arm.name]]
    values = {name: [r[name] for r in results] for name in (*FIGURES, *MORE_FIGURES)}
    values |= {name: [r["drift"][-1][name] for r in results] for name in DRIFTS}
    intervals = {name: interval(v) for name, v in values.items()}
    epochs = min(len(r["drift"]) for r in results)
    row: dict[str, Any] = {
        "arm": arm.name,
        "seeds": seeds,
        "values": values,
        "mean": {name: i.mean for name, i in intervals.items()},
        "half": {name: i.half for name, i in intervals.items()},
        "drift": {n: [interval([r["drift"][e][n] for r in results]).mean for e in range(epochs)] for n in DRIFTS},
    }
    if arm != baseline:
        other = [run["result"]["macro_f1"] for run in runs[baseline.name]]
        difference = paired_difference(values["macro_f1"], other)
        row |= {"difference": vars(difference), "verdict": verdict(difference)}
    return row


def table(summary: Mapping[str, Any]) -> str:
    """Markdown, one row for each arm; macro-F1 in per cent, its difference in percentage points."""
    drifted = _drifted(summary)
    titles = ["arm", "seeds", "macro-F1, %", "difference, pp", "verdict", "log loss", "train - val, pp"]
    titles += ["best epoch", "epochs run", "loss variance"]
    if drifted:
        titles += ["stage 1 after, pp", "BN mean, var", "features, 1 - CKA"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for rows in summary["groups"]:
        lines += ["| " + " | ".join(_cells(row, drifted)) + " |" for row in rows]
    if summary["left_out"]:
        lines += ["", f"Not run, or not all of it: {', '.join(summary['left_out'])} and what is compared with it."]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], drifted: bool) -> list[str]:
    mean = row["mean"]
    difference = Interval(**row["difference"]) if "difference" in row else None
    cells = [
        row["arm"],
        str(len(row["seeds"])),
        _percent(row, "macro_f1"),
        "baseline" if difference is None else f"{100 * difference.mean:+.2f} ± {100 * difference.half:.2f}",
        row.get("verdict", ""),
        f"{mean['log_loss']:.4f} ± {row['half']['log_loss']:.4f}",
        _percent(row, "gap"),
        f"{mean['best_epoch']:.1f}",
        f"{mean['epochs_run']:.1f}",
        f"{mean['loss_variance']:.2g}",
    ]
    if drifted:
        stage1 = 100 * (mean["stage1_after"] - mean["stage1_before"])
        cells += [f"{stage1:+.2f}", f"{mean['bn_mean']:.3f}, {mean['bn_var']:.3f}"]
        cells.append(f"{mean['feature_l2']:.3f}, {mean['feature_cka']:.4f}")
    return cells


def _percent(row: Mapping[str, Any], name: str) -> str:
    return f"{100 * row['mean'][name]:.2f} ± {100 * row['half'][name]:.2f}"


def _drifted(summary: Mapping[str, Any]) -> bool:
    return any(row["mean"][name] > 0 for rows in summary["groups"] for row in rows for name in DRIFTS[:3])


def draw(summary: Mapping[str, Any], title: str) -> Figure:
    """Macro-F1 of each arm with its interval and every seed; and, where a trunk moved, its drift over the epochs."""
    rows = [row for group in summary["groups"] for row in group]
    drifted = _drifted(summary)
    figure = Figure(figsize=(9.6 if drifted else 6.4, 0.9 + 0.45 * len(rows) + (1.2 if drifted else 0)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2 if drifted else 1, squeeze=False)[0]
    for y, row in enumerate(rows):
        values = [100 * v for v in row["values"]["macro_f1"]]
        panels[0].plot(values, [y] * len(values), "o", color="grey", markersize=3)
        colour = {"gain": "tab:green", "loss": "tab:red"}.get(row.get("verdict", ""), "black")
        mean, half = (100 * row[k]["macro_f1"] for k in ("mean", "half"))
        panels[0].errorbar(mean, y, xerr=half, fmt="s", color=colour, capsize=3, markersize=5)
    panels[0].set_yticks(range(len(rows)), [row["arm"] for row in rows], fontsize=8)
    panels[0].invert_yaxis()
    panels[0].set(xlabel="stage 2 macro-F1, %; mean and 95 % over seeds", title=title)
    panels[0].grid(alpha=0.3)
    if drifted:
        for row in rows:
            drift = row["drift"]["feature_l2"]
            panels[1].plot(range(1, len(drift) + 1), drift, marker="o", markersize=3, label=row["arm"])
        panels[1].set(xlabel="epoch of stage 2", ylabel="|F - F0| / |F0|", title="drift of the trunk's features")
        panels[1].grid(alpha=0.3)
        panels[1].legend(fontsize=7)
    return figure
