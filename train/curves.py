"""Training curves and evaluation pictures as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from files import write_atomically


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    write_atomically(path, buffer.getvalue())


def draw_curves(stage: int, history: list[dict[str, Any]], best_epoch: int) -> Figure:
    """Loss and macro-F1 of one stage over its epochs; `history` as StageState has it."""
    epochs = [e["epoch"] for e in history]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    series = {"loss": ("train_loss", "val_loss"), "macro-F1, %": ("train_macro_f1", "val_macro_f1")}
    for axis, (title, keys) in zip(panels, series.items(), strict=True):
        scale = 100.0 if "%" in title else 1.0
        for key in keys:
            axis.plot(epochs, [scale * e[key] for e in history], marker="o", markersize=3, label=key.split("_")[0])
        axis.axvline(best_epoch, color="grey", linestyle=":", label=f"kept: epoch {best_epoch}")
        axis.set(title=f"stage {stage}, {title}", xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def save_report(report: dict[str, Any], title: str, confusion: Path, candidates: Path) -> list[Path]:
    """Write confusion and candidate sets of a report (train.measures.judgement.evaluate_logits) as PNG.

    Args:
        report: of one level or several.
        title: above each.
        confusion, candidates: where they go; of several levels, with the level's suffix before the ending.

    Returns:
        What was written.

    Raises:
        OutputError: if one cannot be written.
    """
    written = []
    for size, level in report["levels"].items() if "levels" in report else (("", report),):
        suffix = f"_{size}" if size else ""
        of_level = f"{title}, {size}x{size} nodes" if size else title
        for figure, path in (
            (draw_confusion(level["all"], of_level), confusion),
            (draw_candidates(level, of_level), candidates),
        ):
            written.append(path.with_name(path.stem + suffix + path.suffix))
            save_figure(figure, written[-1])
    return written


def draw_confusion(report: dict[str, Any], title: str) -> Figure:
    """Confusion of the types, each row in per cent of its true class; `report` as partition_metrics gives it."""
    matrix = np.asarray(report["confusion"], float)
    share = 100.0 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(share, cmap=mpl.colormaps["Blues"], vmin=0, vmax=100)
    names = list(report["f1"])
    ticks = range(len(names))
    axis.set_xticks(ticks, names, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(ticks, [f"{n} ({int(c)})" for n, c in zip(names, matrix.sum(1), strict=True)], fontsize=8)
    axis.set(xlabel="predicted", ylabel="true (count)", title=title)
    for row, col in np.argwhere(share >= 0.5):
        colour = "white" if share[row, col] > 55 else "black"
        axis.text(col, row, f"{share[row, col]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axis, shrink=0.8, label="% of the true class")
    return figure


def draw_candidates(report: dict[str, Any], title: str) -> Figure:
    """Mean candidate set against the share of true types kept, overall and by qindex band; `report` as
    train.measures.judgement.evaluate_level gives it. Crosses are the named thresholds."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    parts = {"all qindex": report["candidates"], **{k: r["candidates"] for k, r in report["by_qindex"].items()}}
    for name, part in parts.items():
        width = 2.2 if name == "all qindex" else 1.0
        curve, points = part["curve"], part["points"].values()
        (line,) = axis.plot(curve["mean_set"], [100 * k for k in curve["kept"]], linewidth=width, label=name)
        marks = [p["mean_set"] for p in points], [100 * p["kept"] for p in points]
        axis.plot(*marks, "x", color=line.get_color())
    thresholds = ", ".join(f"{share}: {t:.3g}" for share, t in report["keep"].items())
    axis.set(xlabel="types in the candidate set, mean (NONE always in)", ylabel="true type kept, %", title=title)
    axis.set(xlim=(1, 8), ylim=(80, 100.2))
    axis.text(0.98, 0.03, f"x: thresholds {thresholds}", transform=axis.transAxes, ha="right", fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center right", title="qindex")
    return figure
