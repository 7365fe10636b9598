"""What a training run is told; stored whole in run.json."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from description import Task, task_of_border
from train import choices
from train.batches import keeps_types
from train.model import ModelConfig
from train.stages import stages_of_run


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: the shape of the model.
        stages: numbers of those of train.stages.STAGES to train, ascending.
        epochs: at most, for each stage.
        passes: how often an epoch of stage 1 goes through the pairs; epochs of later stages do once.
        batch_size: pairs of (block, qindex) over all processes.
        bn_mode: "frozen", or "train" to reproduce the seed's drifting BatchNorm in stages 2 and 3.
        stage1_loss: "joint" trains the trunk with an auxiliary head over all types too; "binary" without.
        loss, focal_gamma: loss of every head (train/losses.py).
        sampler: "natural" or "balanced" over the stage's classes, in stages 2 and 3.
        augmentation: "flips" draws one of the square's eight symmetries for each batch; "contrast", "mixup" and
            "cutmix" come on top (train/batches.py); "none".
        fine_tuning: what stage 2 trains besides its head: "adapters", or "full" for the trunk as well, a control after
            which stage 1's head no longer fits.
        schedule: "cosine" to zero over `epochs`, or "plateau": half after 5 epochs without gain, as the seed.
        trunk_lr, lr: AdamW's rates for the trunk and for everything else.
        weight_decay: AdamW's.
        average: decay per step of an exponential moving average of weights and BatchNorm statistics, which is then
            what is judged and kept (train/average.py); 0 keeps the weights themselves.
        autocast: "bf16" computes forward and backward in bfloat16 where PyTorch deems it safe; "none" in float32.
        covered_weight: of a node that a larger partition covers, which counts as NONE, beside one that exists; above 0,
            at most 1.
        distillation: how much teachers' probabilities count, the labels the rest; 0-1, 0 without a teacher.
        calibration_pictures: train pictures set aside, by the hash of their names, to choose epochs on and to fit
            temperatures, thresholds and the decision rule; with 0, epochs are chosen on val, and nothing is fitted.
        select: the epoch kept is the one with the best validation "loss" or "f1".
        patience: stop a stage after so many epochs without gain.
        seed: of initialisation, order, dropout and flips.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    stages: tuple[int, ...] = (1, 2, 3)
    epochs: int = 10
    passes: int = 1
    batch_size: int = 128
    bn_mode: str = "frozen"
    stage1_loss: str = "joint"
    loss: str = "cross-entropy"
    focal_gamma: float = 2.0
    sampler: str = "natural"
    augmentation: str = "flips"
    fine_tuning: str = "adapters"
    schedule: str = "cosine"
    trunk_lr: float = 1e-3
    lr: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.0
    autocast: str = "none"
    covered_weight: float = 1.0
    distillation: float = 0.0
    calibration_pictures: int = 0
    select: str = "loss"
    patience: int = 15
    seed: int = 42

    def __post_init__(self) -> None:
        self._check_choices()
        rates = {"trunk_lr": self.trunk_lr, "lr": self.lr, "weight_decay": self.weight_decay}
        for name, value in (rates | {"focal_gamma": self.focal_gamma}).items():
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} is a number from 0, not {value}")
        if not 0.0 <= self.average < 1.0 or not 0.0 <= self.distillation <= 1.0:
            raise ValueError("average is one of the numbers from 0 to below 1, distillation from 0 to 1")
        if not 0.0 < self.covered_weight <= 1.0:
            raise ValueError("covered_weight is one of the numbers from above 0 to 1")
        if self.calibration_pictures < 0:
            raise ValueError("calibration_pictures is one of the whole numbers from 0")
        if self.passes < 1:
            raise ValueError("an epoch is one pass at least")
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError("at least one epoch and two pairs to a batch")
        stages_of_run(self.stages, self.model.task)
        if self.fine_tuning == "full" and self.stages != (2,):
            raise ValueError("full fine-tuning is of stage 2 alone: no other stage survives it")
        self._check_augmentation()

    def _check_choices(self) -> None:
        allowed_of = {
            "bn_mode": choices.BN_MODES,
            "stage1_loss": choices.STAGE1_LOSSES,
            "loss": choices.LOSSES,
            "sampler": choices.SAMPLERS,
            "augmentation": choices.AUGMENTATIONS,
            "fine_tuning": choices.FINE_TUNINGS,
            "schedule": choices.SCHEDULES,
            "select": choices.SELECTIONS,
            "autocast": choices.AUTOCASTS,
        }
        for name, allowed in allowed_of.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def _check_augmentation(self) -> None:
        task = self.model.task
        if self.augmentation == "contrast" and self.model.trunk == "resnet18":
            raise ValueError("augmentation is one of the others for resnet18, which does not subtract a block's mean")
        if self.augmentation == "cutmix" and task.input.border:
            raise ValueError("augmentation is one of the others with a border: cutmix cuts whole blocks")
        if self.augmentation in ("mixup", "cutmix") and not task.one_node:
            raise ValueError("augmentation is one of the others for blocks of several nodes: mixed trees are none")
        if (self.augmentation != "none" or self.distillation) and not keeps_types(task):
            raise ValueError("augmentation is one of none: some types' mirror images are not the task's")

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        model = self.model.to_json() | {"task": self.model.task.to_json()}
        return asdict(self) | {"stages": list(self.stages), "model": model}

    @staticmethod
    def from_json(values: dict[str, Any]) -> TrainConfig:
        """The inverse of to_json.

        Raises:
            TypeError, ValueError: if the values are of another version.
        """
        plain = dict(values["model"])
        model = ModelConfig.from_json(plain, Task.from_json(plain.pop("task")))
        return TrainConfig(**values | {"model": model, "stages": tuple(values["stages"])})


def settings_of_today(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration's plain values as to_json gives them today, whatever version wrote them.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: if they are malformed.
    """
    model = dict(config["model"])
    if "task" not in model:
        model["task"] = task_of_border(model.pop("border", 0)).to_json()
    return {"covered_weight": 1.0} | config | {"model": model}


@dataclass(frozen=True)
class TrainTask:
    """A run and where it reads and writes.

    Attributes:
        dataset_dir: a dataset folder.
        output_dir: the run folder.
        stage1_checkpoint: a run folder (or its model.safetensors) whose earlier stages to start from.
        trunk_weights: a safetensors file with weights to start the trunk from.
        resume: go on where an interrupted run in output_dir stopped.
        device: "auto", "cpu", "cuda" or "cuda:N".
        teachers: run folders whose models' probabilities are learnt beside the labels.
        more_train: dataset folders whose train pictures are trained on too; none is ever set aside.
    """

    config: TrainConfig
    dataset_dir: Path
    output_dir: Path
    stage1_checkpoint: Path | None = None
    trunk_weights: Path | None = None
    resume: bool = False
    device: str = "auto"
    teachers: tuple[Path, ...] = ()
    more_train: tuple[Path, ...] = ()
