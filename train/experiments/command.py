"""`cli.py experiment`: run what is not finished, then write figures, table and picture of each experiment."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.dataset import open_dataset
from errors import InputError
from files import write_atomically
from progress import Announce, Progress
from train.curves import save_figure
from train.experiments.arms import EXPERIMENTS, ExperimentSettings
from train.experiments.jobs import run_all, tasks_of
from train.experiments.summary import draw, summarise, table


def run_experiments(
    names: Sequence[str],
    settings: ExperimentSettings,
    seeds: int | None,
    jobs: int,
    finished_only: bool,
    results_dir: Path,
    progress: Progress,
    announce: Announce,
) -> dict[str, Any]:
    """Run experiments, and write `experiment_<name>_<hardware>_<yyyymm>.json` and `.png`.

    Args:
        names: of EXPERIMENTS.
        settings: how much of everything.
        seeds: instead of each experiment's own number.
        jobs: processes at once.
        finished_only: run nothing, and take the seeds whose runs are there.
        results_dir: where JSON and PNG go.
        progress, announce: as train_run.

    Returns:
        The summaries by name, without those of several experiments that have too few finished runs.

    Raises:
        ToolkitError: whatever is wrong with the dataset, a result file or a run.
    """
    chosen = {name: EXPERIMENTS[name] for name in names}
    if seeds is not None:
        chosen = {name: replace(experiment, seeds=seeds) for name, experiment in chosen.items()}
    tasks = tasks_of(chosen.values(), settings, open_dataset(settings.dataset_dir).sha256())
    if not finished_only:
        run_all(tasks, jobs, progress, announce)
    summaries = {}
    for name, experiment in chosen.items():
        try:
            found = summarise(experiment, tasks)
        except InputError as error:
            if len(chosen) == 1:
                raise
            announce(f"left out {name}: {error.message}")
            continue
        summary = {"experiment": name, "date": f"{datetime.now(UTC):%Y-%m-%d}"} | found
        path = results_dir / f"experiment_{name}_{_hardware(summary)}_{datetime.now(UTC):%Y%m}.json"
        write_atomically(path, (json.dumps(summary, indent=1) + "\n").encode())
        save_figure(draw(summary, name), path.with_suffix(".png"))
        announce(f"\n{experiment.question}\n{table(summary)}\nwrote {path} and {path.with_suffix('.png').name}")
        summaries[name] = summary
    return summaries


def _hardware(summary: dict[str, Any]) -> str:
    """The machine of the runs as part of a file name: its GPU, or its CPU where it has none."""
    machine = summary["about"]["machine"]
    name = machine["cpu"] if machine["gpu"] == "none" else machine["gpu"].partition(",")[0]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
