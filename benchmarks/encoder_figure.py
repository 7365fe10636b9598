"""BD-rate against CPU time, the presets as a ladder and the maps beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.encoder_analysis import NORMAL


def draw(groups: dict[str, list[dict[str, Any]]], meanings: Mapping[str, str], path: Path) -> None:
    """One panel a group.

    Args:
        groups: entries of encoder_analysis.analyse by group.
        meanings: what each variant is, by name.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5 * len(groups), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (group, entries) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        for variant in sorted({e["variant"] for e in entries}, key=lambda v: (v != NORMAL, v)):
            points = [e for e in entries if e["variant"] == variant]
            x, y = ([e[name][0] for e in points] for name in ("time", "bd_slowest"))
            spread = [[abs(e["bd_slowest"][side] - e["bd_slowest"][0]) for e in points] for side in (1, 2)]
            style = {"color": "black", "lw": 1.5} if variant == NORMAL else {"lw": 0.8}
            axes.errorbar(x, y, spread, marker="o", ms=4, capsize=2, label=f"{variant}: {meanings[variant]}", **style)
            if variant == NORMAL:
                for entry in points:
                    at = entry["time"][0], entry["bd_slowest"][0]
                    axes.annotate(str(entry["cpu_used"]), at, xytext=(-9, -9), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.set_title(f"{group}, {entries[0]['sequences']} sequences", fontsize=10)
        axes.set_xlabel(f"CPU time of encoding and prediction, cpu-used {entries[0]['cpu_used']} = 1")
        axes.set_ylabel(f"BD-rate against cpu-used {entries[0]['cpu_used']} (PSNR-Y), %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
