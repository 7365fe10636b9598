"""What is compared with what. Every arm of an experiment is one change to the same recipe of stage 2; all arms of a
seed start from one stage 1, visit the same pairs in the same order, and so are paired.

Two bases: `compact` as this toolkit trains it, and `resnet18` as the seed did (no qindex, a trunk that only ever saw
NONE / PARTITIONED). Stage 2 is the seed's too: focal loss, classes drawn alike, the epoch of the best macro-F1 kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.config import TrainConfig
from train.model import ModelConfig

RATE = 2e-3
BASE = TrainConfig(stages=(2,), loss="focal", sampler="balanced", select="f1", patience=8, lr=RATE)
NEVER = 10**6


@dataclass(frozen=True)
class ExperimentSettings:
    """How much of everything.

    Attributes:
        dataset_dir: a dataset folder.
        output_dir: where finished runs lie, one file each.
        nodes: of each split at most, drawn once, the same for all seeds and arms.
        stage1_epochs: of stage 1, all run.
        epochs: at most, of stage 2.
        batch_size: pairs.
        device: as TrainTask's.
    """

    dataset_dir: Path
    output_dir: Path
    nodes: int = 100_000
    stage1_epochs: int = 6
    epochs: int = 10
    batch_size: int = 1024
    device: str = "auto"

    def __post_init__(self) -> None:
        if min(self.nodes, self.stage1_epochs, self.epochs) < 1 or self.batch_size < 2:
            raise ValueError("at least one node and one epoch, and two pairs to a batch")

    def recipe(self) -> dict[str, int]:
        """What decides a run's result besides its arm and seed."""
        return {name: getattr(self, name) for name in ("nodes", "stage1_epochs", "epochs", "batch_size")}


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        name: as the table has it.
        trunk: "compact" or "resnet18".
        model, config: what differs from the base, fields of ModelConfig and TrainConfig.
    """

    name: str
    trunk: str = "compact"
    model: tuple[tuple[str, Any], ...] = ()
    config: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """A file name: arms of different experiments that are the same run have the same key."""
        changes = json.dumps([self.model, self.config])
        return (
            f"{self.trunk}-{hashlib.sha256(changes.encode()).hexdigest()[:8] if self.model or self.config else 'base'}"
        )

    def train_config(self, settings: ExperimentSettings, seed: int) -> TrainConfig:
        """Stage 2 of this arm."""
        model = ModelConfig(self.trunk, qindex_of(self.trunk), **dict(self.model))
        base = replace(BASE, model=model, seed=seed, epochs=settings.epochs, batch_size=settings.batch_size)
        return replace(base, **dict(self.config))


def qindex_of(trunk: str) -> str:
    """The seed's trunk sees no qindex."""
    return "none" if trunk == "resnet18" else "film"


def stage1_config(trunk: str, settings: ExperimentSettings, seed: int) -> TrainConfig:
    """Stage 1 of a trunk: the last epoch is the one that is kept, as the cosine schedule means it."""
    return TrainConfig(
        ModelConfig(trunk, qindex_of(trunk)),
        stages=(1,),
        epochs=settings.stage1_epochs,
        batch_size=settings.batch_size,
        stage1_loss="binary" if trunk == "resnet18" else "joint",
        trunk_lr=RATE,
        lr=RATE,
        patience=NEVER,
        seed=seed,
    )


@dataclass(frozen=True)
class Experiment:
    """A question.

    Attributes:
        question: in one sentence.
        seeds: how many.
        pairs: (baseline, other arms) by trunk; differences are taken within each.
    """

    question: str
    seeds: int
    pairs: tuple[tuple[Arm, tuple[Arm, ...]], ...]

    def arms(self) -> list[Arm]:
        """Baselines first."""
        return [arm for baseline, others in self.pairs for arm in (baseline, *others)]


def _compact(name: str, **config: Any) -> Arm:
    return Arm(name, config=tuple(config.items()))


def _adapters(name: str, **model: Any) -> Arm:
    return Arm(name, model=tuple(model.items()))


EXPERIMENTS = {
    "bn": Experiment(
        "Does freezing the trunk's BatchNorm in stage 2 help, as the seed's note had it?",
        5,
        tuple(
            (
                Arm(f"{trunk}, BN in train mode", trunk, config=(("bn_mode", "train"),)),
                (Arm(f"{trunk}, BN frozen", trunk),),
            )
            for trunk in ("resnet18", "compact")
        ),
    ),
    "adapter-reduction": Experiment(
        "How narrow may the adapters be?",
        3,
        ((Arm("reduction 4"), tuple(_adapters(f"reduction {r}", adapter_reduction=r) for r in (2, 8))),),
    ),
    "adapters": Experiment(
        "What do adapters gain over a frozen trunk with a head alone, which kind is best, and what does freezing cost?",
        3,
        (
            (
                Arm("in series"),
                (
                    _adapters("none: frozen trunk and head", adapters="none"),
                    _adapters("LoRA-style", adapters="lora"),
                    _adapters("parallel", adapters="parallel"),
                    Arm("full fine-tuning", model=(("adapters", "none"),), config=(("fine_tuning", "full"),)),
                ),
            ),
        ),
    ),
    "loss": Experiment(
        "Which loss in stage 2?",
        3,
        (
            (
                Arm("focal, gamma 2"),
                (
                    _compact("focal, gamma 3", focal_gamma=3.0),
                    _compact("Poly", loss="poly"),
                    _compact("asymmetric", loss="asymmetric"),
                    _compact("label smoothing", loss="label-smoothing"),
                    _compact("cross-entropy", loss="cross-entropy"),
                ),
            ),
        ),
    ),
    "augmentation": Experiment(
        "Which augmentation in stage 2?",
        3,
        (
            (
                Arm("flips and transposition"),
                (
                    _compact("none", augmentation="none"),
                    _compact("flips and MixUp", augmentation="mixup"),
                    _compact("flips and CutMix", augmentation="cutmix"),
                    _compact("flips and contrast", augmentation="contrast"),
                ),
            ),
        ),
    ),
}


def recipe_json(config: TrainConfig) -> dict[str, Any]:
    """A configuration as it stands in a result file."""
    return json.loads(json.dumps(config.to_json()))
