"""All runs of some experiments: stage 1 once for each trunk and seed, then the arms, several processes at once.

stage1-compact-seed0/ ─┬─► compact-base-seed0.json          finished files are not made again,
                       ├─► compact-1f0c22ab-seed0.json      so a stopped experiment goes on where it was
                       └─► ...
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.dataset import load_split, open_dataset
from data.encode import local_workers
from errors import ArtefactError, InputError, ToolkitError
from files import write_atomically
from machine import machine
from progress import Announce, Progress
from train.checkpoint import RUN_FILE, open_run, save_run
from train.config import TrainConfig, settings_of_today
from train.distributed import world
from train.experiments.arms import Arm, Experiment, ExperimentSettings, recipe_json, stage1_config
from train.experiments.one_run import Data, run_arm, run_stage1
from train.experiments.subset import draw_nodes, read_pairs, write_pairs

PAIRS_FILE = "pairs.npz"


@dataclass(frozen=True)
class Task:
    """One run: of stage 1 if `arm` is None.

    Attributes:
        identity: what the result depends on, as plain values.
    """

    settings: ExperimentSettings
    trunk: str
    seed: int
    arm: Arm | None
    identity: dict[str, Any]

    @property
    def path(self) -> Path:
        """The file that is there once the run is finished."""
        root = self.settings.output_dir
        if self.arm is None:
            return stage1_dir(root, self.trunk, self.seed) / RUN_FILE
        return root / f"{self.arm.key}-seed{self.seed}.json"

    def finished(self) -> dict[str, Any] | None:
        """What the file holds; None if it is not there.

        Raises:
            ArtefactError: if it is of other settings, or corrupt.
        """
        try:
            found = json.loads(self.path.read_text())
            if "config" in found["identity"]:
                found["identity"]["config"] = settings_of_today(found["identity"]["config"])
            other = [name for name, value in self.identity.items() if found["identity"].get(name) != value]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{self.path} is no result of an experiment: {error}", "delete it") from None
        if other:
            hint = "name another --output-dir, or delete it"
            raise ArtefactError(f"{self.path} was made with other settings ({', '.join(other)})", hint)
        return dict(found)


def stage1_dir(root: Path, trunk: str, seed: int) -> Path:
    """The run folder of a stage 1."""
    return root / f"stage1-{trunk}-seed{seed}"


def tasks_of(experiments: Iterable[Experiment], settings: ExperimentSettings, dataset_sha256: str) -> list[Task]:
    """Every run that the experiments need, once: stages 1 first, the wider trunk before the other."""

    def task(trunk: str, seed: int, arm: Arm | None, config: TrainConfig) -> Task:
        values = {"dataset_sha256": dataset_sha256, "recipe": settings.recipe(), "config": recipe_json(config)}
        return Task(settings, trunk, seed, arm, values)

    arms: dict[tuple[str, int], Task] = {}
    starts: dict[tuple[str, int], Task] = {}
    for experiment in experiments:
        for seed in range(experiment.seeds):
            for arm in experiment.arms():
                arms.setdefault((arm.key, seed), task(arm.trunk, seed, arm, arm.train_config(settings, seed)))
                start = task(arm.trunk, seed, None, stage1_config(arm.trunk, settings, seed))
                starts.setdefault((arm.trunk, seed), start)
    return [*sorted(starts.values(), key=lambda t: (t.seed, t.trunk != "resnet18")), *arms.values()]


def do_task(task: Task) -> None:
    """Run it and write its file; in a process of its own or not."""
    torch.set_num_threads(1)
    about = {"identity": task.identity, "machine": machine(), "torch": torch.__version__}
    with world(task.settings.device) as here:
        data = Data.of(*read_pairs(task.settings.output_dir / PAIRS_FILE), here.device)
        if task.arm is None:
            config = stage1_config(task.trunk, task.settings, task.seed)
            model, result = run_stage1(config, data)
            save_run(task.path.parent, model, about | result)
            return
        start = open_run(stage1_dir(task.settings.output_dir, task.trunk, task.seed)).model
        result = run_arm(task.arm.train_config(task.settings, task.seed), start, data)
    write_atomically(task.path, (json.dumps(about | {"result": result}) + "\n").encode())


def run_all(tasks: Sequence[Task], jobs: int, progress: Progress, announce: Announce) -> None:
    """Run what is not finished.

    Args:
        tasks: as tasks_of gives them.
        jobs: processes at once; 1 runs everything in this one.
        progress: told of every run that ends.
        announce: told how much there is to do.

    Raises:
        ToolkitError: whatever is wrong with the dataset, a result file or a run.
    """
    todo = [task for task in tasks if task.finished() is None]
    announce(f"{len(tasks)} runs, of which {len(tasks) - len(todo)} are finished; {jobs} at once")
    if not todo:
        return
    _prepare(todo[0].settings, announce)
    if jobs == 1:
        for done, task in enumerate(todo, 1):
            do_task(task)
            progress(done, len(todo), task.path.name)
        return
    with local_workers(jobs) as (workers, _):
        _run_on(workers, todo, progress)


def _run_on(workers: Executor, todo: list[Task], progress: Progress) -> None:
    """Stage 1 first; an arm as soon as its stage 1 is there."""
    starts = {(t.trunk, t.seed) for t in todo if t.arm is None}
    waiting = [t for t in todo if t.arm is not None and (t.trunk, t.seed) in starts]
    running: dict[Future, Task] = {workers.submit(do_task, t): t for t in todo if t not in waiting}
    done = 0
    while running:
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            task = running.pop(future)
            _check(future, task)
            done += 1
            progress(done, len(todo), task.path.name)
            if task.arm is None:
                running |= {
                    workers.submit(do_task, t): t for t in waiting if (t.trunk, t.seed) == (task.trunk, task.seed)
                }


def _check(future: Future[None], task: Task) -> None:
    try:
        future.result()
    except BrokenExecutor as error:
        raise ToolkitError(
            f"a process died at {task.path.name}: {error}",
            "out of memory? run again with fewer --jobs; finished runs are kept",
        ) from None


def _prepare(settings: ExperimentSettings, announce: Announce) -> None:
    """Cut the fixed pairs, unless they are there: the dataset's hash stands in every result."""
    path = settings.output_dir / PAIRS_FILE
    dataset = open_dataset(settings.dataset_dir)
    train, val = (load_split(dataset, split) for split in ("train", "val"))
    if train.bit_depth != val.bit_depth:
        raise InputError(f"train is {train.bit_depth} bit, val {val.bit_depth}", "keep one depth per dataset")
    train, val = draw_nodes(train, settings.nodes), draw_nodes(val, settings.nodes)
    write_pairs(path, train, val)
    announce(f"{settings.dataset_dir}: {len(train):,} train nodes of all, {len(val):,} val nodes; wrote {path}")
