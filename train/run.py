"""A whole training run: read the data, train the stages in order, evaluate, write the run folder."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import open_dataset
from data.split import check_splits
from errors import ArtefactError, UsageError
from files import write_atomically
from progress import Announce, Progress
from train.batches import middle
from train.checkpoint import (
    MODEL_FILE,
    RESUME_FILE,
    RUN_FILE,
    Run,
    load_resume,
    open_run,
    read_tensors,
    save_resume,
    save_run,
)
from train.config import TrainConfig, TrainTask
from train.curves import draw_candidates, draw_confusion, draw_curves, save_figure
from train.distill import taught
from train.distributed import World, world
from train.evaluate import evaluate_calibrated
from train.loop import StageLoop
from train.model import PartitionModel
from train.pairs import RunPairs, load_pairs
from train.stages import plain_copy

# The seed's scripts compared runs by this file and its key best_f1.
SEED_METRICS = Path("stage2_adapter") / "stage2_adapter_metrics.json"


def train_run(task: TrainTask, progress: Progress, announce: Announce) -> dict[str, Any]:
    """Train and write a run folder.

    Args:
        task: what to train, from what, and where to.
        progress: told of every few batches.
        announce: told in one line what was read, used and written.

    Returns:
        run.json as written.

    Raises:
        ToolkitError: whatever is wrong with data, checkpoint, device or output folder.
    """
    with world(task.device) as here:
        start = _earlier_run(task)
        config = _config_for(task, start)
        dataset = open_dataset(task.dataset_dir)
        more_train = [open_dataset(path) for path in task.more_train]
        hashes = dataset.sha256(), [more.sha256() for more in more_train]
        teachers = _teachers(task, config)
        border = config.model.border
        widest = max([border, *(t.model.config.border for t in teachers)])
        pairs = load_pairs(dataset, config.calibration_pictures, here.device, border, widest, more_train)
        if here.leads:
            check_splits(dataset, more_train, pairs.calib_pictures)
            announce(f"dataset {task.dataset_dir}: {pairs.describe()}")
            stages = ", ".join(map(str, config.stages))
            if start is not None:
                announce(f"starts from {start.root}: trunk {start.model.config.trunk}, weights {start.sha256[:12]}")
            announce(
                f"device {here.device}, {here.size} process(es); trunk {config.model.trunk}, stages {stages};"
                f" blocks {config.model.side}x{config.model.side}"
            )
        run = _Run(task, config, here, hashes, start, pairs, teachers)
        return run.train(progress, announce)


def _teachers(task: TrainTask, config: TrainConfig) -> list[Run]:
    if (not task.teachers) != (config.distillation == 0.0):
        raise UsageError("a teacher and how much it counts go together", "give --teacher RUN, or --distillation 0")
    return [open_run(path) for path in task.teachers]


def _earlier_run(task: TrainTask) -> Run | None:
    path = task.stage1_checkpoint
    if path is None:
        if 1 not in task.config.stages:
            raise UsageError("stages 2 and 3 start from an earlier run", "name it with --stage1-checkpoint RUN")
        return None
    return open_run(path.parent if path.is_file() else path)


def _config_for(task: TrainTask, start: Run | None) -> TrainConfig:
    """The task's configuration; with an earlier run, its trunk decides and must not be contradicted."""
    if start is None:
        return task.config
    model = task.config.model
    have, asked = start.model.config, model.trunk
    if asked != have.trunk:
        raise ArtefactError(
            f"{start.root} holds a {have.trunk} trunk, --trunk says {asked}", f"use --trunk {have.trunk}"
        )
    if have.border != model.border:
        message = f"{start.root} sees blocks with a border of {have.border}, --border says {model.border}"
        raise ArtefactError(message, f"use --border {have.border}")
    return replace(task.config, model=replace(model, qindex_input=have.qindex_input))


class _Run:
    def __init__(
        self,
        task: TrainTask,
        config: TrainConfig,
        here: World,
        hashes: tuple[str, list[str]],
        start: Run | None,
        pairs: RunPairs,
        teachers: list[Run],
    ) -> None:
        self.task, self.config, self.world = task, config, here
        self.start, self.pairs, self.teachers = start, pairs, teachers
        self.identity = {
            "config": config.to_json(),
            "dataset_sha256": hashes[0],
            "more_train_sha256": hashes[1],
            "start_sha256": None if start is None else start.sha256,
            "teachers_sha256": [t.sha256 for t in teachers],
            "calib": list(pairs.calib_pictures),
        }
        torch.manual_seed(config.seed)
        self.model = PartitionModel(config.model)
        self._load_start()
        self.stages: dict[str, Any] = {}

    def _load_start(self) -> None:
        """Weights of earlier stages: those that no later stage of this run makes anew."""
        if self.start is not None:
            state = self.start.model.state_dict()
            keep: tuple[str, ...] = ("trunk.", "embedding.", "heads.stage1.")
            if self.config.stages == (3,):
                keep = ("trunk.", "embedding.", "heads.stage1.", "adapters.", "heads.macro.")
                if replace(self.start.model.config, temperature="none") != self.config.model:
                    raise ArtefactError(
                        f"{self.start.root} has {asdict(self.start.model.config)}",
                        "stage 3 keeps the adapters: use the same --adapter-reduction and --adapters",
                    )
            self.model.load_state_dict({k: v for k, v in state.items() if k.startswith(keep)}, strict=False)
        if self.task.trunk_weights is not None:
            self._load_trunk(self.task.trunk_weights)

    def _load_trunk(self, path: Path) -> None:
        state = read_tensors(path)
        own = self.model.trunk.state_dict()
        shapes = {k: tuple(v.shape) for k, v in own.items()}
        found = {k: tuple(v.shape) for k, v in state.items()}
        # A trunk trained without qindex has no films; everything else must be there, and nothing else.
        expected = {k: v for k, v in shapes.items() if k in found or not k.startswith("films.")}
        if found != expected:
            odd = sorted(set(found.items()) ^ set(expected.items()))[0][0]
            raise ArtefactError(f"{path} holds no {self.config.model.trunk} trunk", f"'{odd}' differs or is missing")
        self.model.trunk.load_state_dict(state, strict=False)

    def train(self, progress: Progress, announce: Announce) -> dict[str, Any]:
        saved = self._saved_state()
        self._ask_teachers(progress)
        if not self.task.resume:
            self._save_state(self.config.stages[0], None)
        for stage in self.config.stages:
            if str(stage) in self.stages:
                continue
            data = self.pairs.train, self.pairs.judge
            loop = StageLoop(self.model, stage, self.config, *data, self.world)
            if saved is not None and saved["stage"] == stage:
                loop.restore(saved["loop"])
                announce(f"stage {stage} goes on after epoch {loop.state.epoch}")
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
        train.blocks = middle(train.blocks, self.config.model.side).contiguous()

    def _saved_state(self) -> dict[str, Any] | None:
        if not self.task.resume:
            return None
        saved = load_resume(self.task.output_dir)
        with suppress(KeyError, TypeError, AttributeError):
            # Runs that were interrupted before there was a border, or further datasets, had none.
            saved["identity"]["config"]["model"].setdefault("border", 0)
            saved["identity"].setdefault("more_train_sha256", [])
            if saved["identity"].pop("teacher_sha256", "none") is None:
                saved["identity"]["teachers_sha256"] = []
        if saved["identity"] != self.identity:
            differing = [k for k, v in self.identity.items() if saved["identity"].get(k) != v]
            raise ArtefactError(
                f"{self.task.output_dir} was interrupted with other settings ({', '.join(differing)})",
                "resume with the command it was started with",
            )
        self.stages = saved["stages"]
        self.model.load_state_dict(saved["model"], strict=True)
        return saved if saved["loop"] is not None else None

    def _save_state(self, stage: int, loop: dict[str, Any] | None) -> None:
        if not self.world.leads:
            return
        model = {k: v.cpu() for k, v in self.model.state_dict().items()}
        state = {"identity": self.identity, "stage": stage, "stages": self.stages, "model": model, "loop": loop}
        save_resume(self.task.output_dir, state)

    def _finish_stage(self, stage: int, loop: StageLoop) -> None:
        state = loop.state
        f1 = [e["val_macro_f1"] for e in state.history]
        self.stages[str(stage)] = {
            "history": state.history,
            "kept_epoch": state.best_epoch,
            "best_f1": max(f1),
            "best_f1_epoch": int(np.argmax(f1)) + 1,
            "epochs_run": state.epoch,
        }
        if not self.world.leads:
            return
        save_figure(
            draw_curves(stage, state.history, state.best_epoch), self.task.output_dir / f"stage{stage}_curves.png"
        )
        if stage == 2:
            text = json.dumps(self.stages["2"] | {"history": state.history}, indent=1)
            write_atomically(self.task.output_dir / SEED_METRICS, text.encode())

    def _finish(self, announce: Announce) -> dict[str, Any]:
        info: dict[str, Any] = {}
        if self.world.leads:
            self.model, evaluation = evaluate_calibrated(self.model.to(self.world.device), self.pairs)
            versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
            info = self.identity | {"versions": versions, "stages": self.stages, "evaluation": evaluation}
            save_run(self.task.output_dir, self.model, info)
            title = "validation split, covered counted as NONE"
            save_figure(draw_confusion(evaluation["all"], title), self.task.output_dir / "confusion.png")
            save_figure(draw_candidates(evaluation, title), self.task.output_dir / "candidates.png")
            with suppress(FileNotFoundError):
                (self.task.output_dir / RESUME_FILE).unlink()
            announce(f"wrote {self.task.output_dir}: {MODEL_FILE}, {RUN_FILE}, curves, confusion and candidates as PNG")
        return self.world.broadcast(info)


def _epoch_line(stage: int, entry: dict[str, Any]) -> str:
    return (
        f"stage {stage} epoch {entry['epoch']:>2}:"
        f" train loss {entry['train_loss']:.4f}, val loss {entry['val_loss']:.4f},"
        f" train F1 {100 * entry['train_macro_f1']:.1f} %, val F1 {100 * entry['val_macro_f1']:.1f} %"
    )
