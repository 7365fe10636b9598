"""A whole training run: read the data, train the stages in order, evaluate, write the run folder."""

from __future__ import annotations

import json
import platform
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.dataset import open_dataset
from data.split import check_splits
from errors import ArtefactError
from files import write_atomically
from locks import exclusive
from progress import Announce, Progress
from train.batches import middle
from train.checkpoint import MODEL_FILE, RESUME_FILE, RUN_FILE, Run, save_run, sweep
from train.config import TrainConfig, TrainTask
from train.curves import draw_curves, save_figure, save_report
from train.distill import taught
from train.distributed import World, world
from train.evaluate import evaluate_calibrated
from train.loop import StageLoop
from train.model import PartitionModel
from train.pairs import RunPairs, load_pairs
from train.resume import ResumeState, load_resume, require_resume, save_resume
from train.stage_net import plain_copy
from train.stages import Stage, stages_of_run
from train.start import config_for, earlier_run, load_start, teachers_of, widest_border
from train.supports import check_run

LOCK_FILE = ".lock"


@dataclass(frozen=True)
class _Inputs:
    """All that a run reads.

    Attributes:
        config: of the run, its trunk that of `start`.
        start: an earlier run, or None.
        teachers: finished runs.
        pairs: of the datasets.
        hashes: of the dataset, and of the further ones.
    """

    config: TrainConfig
    start: Run | None
    teachers: list[Run]
    pairs: RunPairs
    hashes: tuple[str, list[str]]


def train_run(task: TrainTask, progress: Progress, announce: Announce) -> dict[str, Any]:
    """Train and write a run folder.

    Args:
        task: what to train, from what, and where to.
        progress: told of every few batches.
        announce: told in one line what was read, used and written.

    Returns:
        run.json as written.

    Raises:
        ToolkitError: whatever is wrong with data, checkpoint, device or output folder, or if another training writes
            to that folder.
    """
    with world(task.device) as here:
        if task.resume:
            require_resume(task.output_dir)
        inputs = _read(task, here, announce)
        lock = exclusive(task.output_dir / LOCK_FILE, f"another training is writing to {task.output_dir}")
        with lock if here.leads else nullcontext():
            if here.leads:
                sweep(task.output_dir)
            return _Run(task, inputs, here).train(progress, announce)


def _read(task: TrainTask, here: World, announce: Announce) -> _Inputs:
    start = earlier_run(task)
    config = config_for(task, start)
    dataset = open_dataset(task.dataset_dir)
    more_train = [open_dataset(path) for path in task.more_train]
    hashes = dataset.sha256(), [more.sha256() for more in more_train]
    teachers = teachers_of(task, config)
    model = config.model
    widest = widest_border(teachers, model.task)
    pairs = load_pairs(dataset, config.calibration_pictures, here.device, model.task, widest, more_train)
    notes = check_run(stages_of_run(config.stages, model.task), model.task, pairs, 2 * here.size)
    if here.leads:
        check_splits(dataset, more_train, pairs.calib_pictures)
        announce(f"dataset {task.dataset_dir}: {pairs.describe()}")
        for note in notes:
            announce(note)
        if start is not None:
            announce(f"starts from {start.root}: trunk {start.model.config.trunk}, weights {start.sha256[:12]}")
        stages, side = ", ".join(map(str, config.stages)), model.form.side
        announce(
            f"device {here.device}, {here.size} process(es); trunk {model.trunk}, stages {stages}; blocks {side}x{side}"
        )
    return _Inputs(config, start, teachers, pairs, hashes)


class _Run:
    def __init__(self, task: TrainTask, inputs: _Inputs, here: World) -> None:
        self.task, self.config, self.world = task, inputs.config, here
        self.pairs, self.teachers = inputs.pairs, inputs.teachers
        self.identity = {
            "config": self.config.to_json(),
            "dataset_sha256": inputs.hashes[0],
            "more_train_sha256": inputs.hashes[1],
            "start_sha256": None if inputs.start is None else inputs.start.sha256,
            "teachers_sha256": [t.sha256 for t in inputs.teachers],
            "calib": list(self.pairs.calib_pictures),
        }
        torch.manual_seed(self.config.seed)
        self.model = PartitionModel(self.config.model)
        load_start(self.model, self.config, inputs.start, task.trunk_weights)
        self.stages: dict[str, dict[str, Any]] = {}

    def train(self, progress: Progress, announce: Announce) -> dict[str, Any]:
        stages = stages_of_run(self.config.stages, self.config.model.task)
        saved = self._saved_state()
        self._ask_teachers(progress)
        if not self.task.resume:
            self._save_state(stages[0], None)
        for stage in stages:
            if str(stage.number) in self.stages:
                continue
            data = self.pairs.train, self.pairs.judge
            loop = StageLoop(self.model, stage, self.config, *data, self.world)
            if saved is not None and saved.loop is not None and saved.stage == stage.number:
                loop.restore(saved.loop)
                announce(f"stage {stage.number} goes on after epoch {loop.state.epoch}")
            for state in loop.epochs(progress):
                self._save_state(stage, loop.checkpoint())
                if self.world.leads:
                    announce(_epoch_line(stage, state.history[-1]))
            loop.restore_best()
            self._finish_stage(stage, loop)
            # A fresh copy: the next stage freezes what it must, and this one's frozen modules do not linger.
            self.model = plain_copy(self.model)
            self._save_state(stage, None)
        return self._finish(announce)

    def _ask_teachers(self, progress: Progress) -> None:
        train, models = self.pairs.train, [t.model for t in self.teachers]
        if models:
            train.soft = taught(models, train, self.config.autocast == "bf16", progress)
            self.teachers.clear()
        # Teachers may have seen more than the model does.
        train.blocks = middle(train.blocks, self.config.model.form.side).contiguous()

    def _saved_state(self) -> ResumeState | None:
        if not self.task.resume:
            return None
        root, own = self.task.output_dir, self.model.state_dict()
        saved = load_resume(root, sum(t.numel() * t.element_size() for t in own.values()))
        if saved.identity != self.identity:
            differing = [k for k, v in self.identity.items() if saved.identity.get(k) != v]
            raise ArtefactError(
                f"{root} was interrupted with other settings ({', '.join(differing)})",
                "resume with the command it was started with",
            )
        if {k: v.shape for k, v in saved.model.items()} != {k: v.shape for k, v in own.items()}:
            raise ArtefactError(f"{root / RESUME_FILE} holds another model", "delete it and train again")
        self.stages = saved.stages
        self.model.load_state_dict(saved.model, strict=True)
        return saved

    def _save_state(self, stage: Stage, loop: dict[str, Any] | None) -> None:
        if not self.world.leads:
            return
        model = {k: v.cpu() for k, v in self.model.state_dict().items()}
        save_resume(self.task.output_dir, ResumeState(self.identity, stage.number, self.stages, model, loop))

    def _finish_stage(self, stage: Stage, loop: StageLoop) -> None:
        state, root = loop.state, self.task.output_dir
        f1 = [e["val_macro_f1"] for e in state.history]
        about = {
            "history": state.history,
            "kept_epoch": state.best_epoch,
            "best_f1": max(f1),
            "best_f1_epoch": int(np.argmax(f1)) + 1,
            "epochs_run": state.epoch,
        }
        self.stages[str(stage.number)] = about
        if not self.world.leads:
            return
        curves = draw_curves(stage.number, state.history, state.best_epoch)
        save_figure(curves, root / f"stage{stage.number}_curves.png")
        if stage.seed_metrics is not None:
            write_atomically(root / stage.seed_metrics, json.dumps(about, indent=1).encode())

    def _finish(self, announce: Announce) -> dict[str, Any]:
        info: dict[str, Any] = {}
        root = self.task.output_dir
        if self.world.leads:
            self.model, evaluation = evaluate_calibrated(self.model.to(self.world.device), self.pairs)
            versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
            info = self.identity | {"versions": versions, "stages": self.stages, "evaluation": evaluation}
            info = save_run(root, self.model, info)
            title = "validation split, covered counted as NONE"
            save_report(evaluation, title, root / "confusion.png", root / "candidates.png")
            with suppress(FileNotFoundError):
                (root / RESUME_FILE).unlink()
            announce(f"wrote {root}: {MODEL_FILE}, {RUN_FILE}, curves, confusion and candidates as PNG")
        return self.world.broadcast(info)


def _epoch_line(stage: Stage, entry: dict[str, Any]) -> str:
    return (
        f"stage {stage.number} epoch {entry['epoch']:>2}:"
        f" train loss {entry['train_loss']:.4f}, val loss {entry['val_loss']:.4f},"
        f" train F1 {100 * entry['train_macro_f1']:.1f} %, val F1 {100 * entry['val_macro_f1']:.1f} %"
    )
