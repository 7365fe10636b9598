"""`train` and `experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from commands.options import PATH, FiniteFloat, OneOf, borders, configured, dataset_option, json_option
from console import ProgressLine, say, say_json
from train import choices
from train.backbones import TRUNKS

if TYPE_CHECKING:
    from train.model import ModelConfig

_STAGES = {"all": (1, 2, 3), "1": (1,), "2": (2,), "3": (3,)}
_DEVICE = click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")


class Recipe(TypedDict):
    """The options that are fields of TrainConfig, with its names; mypy holds the two together."""

    epochs: int
    passes: int
    batch_size: int
    bn_mode: str
    focal_gamma: float
    sampler: str
    augmentation: str
    schedule: str
    trunk_lr: float
    lr: float
    weight_decay: float
    average: float
    autocast: str
    calibration_pictures: int
    select: str
    patience: int
    seed: int


@click.command()
@dataset_option("Dataset folder.")
@click.option("--output-dir", type=PATH, default=Path("runs/default"), help="Run folder to write.")
@click.option("--trunk", type=OneOf(lambda: TRUNKS), help="Default: compact, or the checkpoint's.")
@click.option(
    "--border", type=OneOf(borders), help="Samples around a block seen too.  [default: 0, or the checkpoint's]"
)
@click.option(
    "--qindex-input", type=OneOf(lambda: choices.QINDEX_INPUTS), default="film", help="How the model sees qindex."
)
@click.option("--stage", type=click.Choice(tuple(_STAGES)), help="Default: all; 2 and 3 with a checkpoint.")
@click.option("--stage1-checkpoint", type=PATH, help="Run whose earlier stages to start from.")
@click.option("--trunk-weights", type=PATH, help="Safetensors file to start the trunk from.")
@click.option("--epochs", type=click.IntRange(1), default=3, help="At most, for each stage.")
@click.option("--passes", type=click.IntRange(1), default=1, help="Through the data in an epoch of stage 1.")
@click.option("--batch-size", type=click.IntRange(2), default=128)
@click.option("--adapter-reduction", type=click.IntRange(1), default=4, help="Width of the trunk over the adapters'.")
@click.option("--adapters", type=OneOf(lambda: choices.ADAPTERS), default="series")
@click.option("--bn-mode", type=OneOf(lambda: choices.BN_MODES), default="frozen", help="train: the seed's bug.")
@click.option("--stage1-loss", type=OneOf(lambda: choices.STAGE1_LOSSES), help="Default: joint; binary for resnet18.")
@click.option("--loss", type=OneOf(lambda: choices.LOSSES))
@click.option("--focal-gamma", type=FiniteFloat(0), default=2.0)
@click.option("--sampler", type=OneOf(lambda: choices.SAMPLERS), default="natural", help="In stages 2 and 3.")
@click.option("--augmentation", type=OneOf(lambda: choices.AUGMENTATIONS), default="flips")
@click.option("--schedule", type=OneOf(lambda: choices.SCHEDULES), default="cosine")
@click.option("--trunk-lr", type=FiniteFloat(0), default=1e-3)
@click.option("--lr", type=FiniteFloat(0), default=1e-3, help="Of heads, adapters and the qindex embedding.")
@click.option("--weight-decay", type=FiniteFloat(0), default=0.01)
@click.option(
    "--average",
    type=FiniteFloat(0, 1, max_open=True),
    default=0.0,
    help="Decay per step of an average of the weights, such as 0.999.",
)
@click.option("--autocast", type=OneOf(lambda: choices.AUTOCASTS), default="none", help="bf16: for GPUs.")
@click.option("--more-train", type=PATH, multiple=True, help="Further dataset whose train pictures count too.")
@click.option("--teacher", type=PATH, multiple=True, help="Run whose probabilities to learn beside the labels.")
@click.option("--distillation", type=FiniteFloat(0, 1), help="How much they count.  [default: 0.7 with a teacher]")
@click.option(
    "--calibration-pictures", type=click.IntRange(0), default=0, help="Train pictures set aside to calibrate on."
)
@click.option(
    "--select", type=OneOf(lambda: choices.SELECTIONS), default="loss", help="What the kept epoch is best in."
)
@click.option("--patience", type=click.IntRange(1), default=15, help="Epochs without gain before a stage stops.")
@_DEVICE
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=42)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@json_option
def train(
    dataset_dir: Path,
    output_dir: Path,
    trunk: str | None,
    border: str | None,
    qindex_input: str,
    stage: str | None,
    stage1_checkpoint: Path | None,
    trunk_weights: Path | None,
    adapter_reduction: int,
    adapters: str,
    stage1_loss: str | None,
    loss: str | None,
    device: str,
    more_train: tuple[Path, ...],
    teacher: tuple[Path, ...],
    distillation: float | None,
    resume: bool,
    as_json: bool,
    **recipe: Unpack[Recipe],
) -> None:
    """Train a model on a dataset (by default the embedded sample) in three stages."""
    from evaluate.report import table
    from train.config import TrainConfig, TrainTask
    from train.run import train_run

    model = _model(stage1_checkpoint, trunk, border, qindex_input, adapter_reduction, adapters)
    config = configured(
        lambda: TrainConfig(
            model=model,
            stages=_STAGES[stage] if stage else (2, 3) if stage1_checkpoint else _STAGES["all"],
            stage1_loss=stage1_loss or ("binary" if model.trunk == "resnet18" else "joint"),
            loss=loss or "cross-entropy",
            distillation=distillation if distillation is not None else 0.7 if teacher else 0.0,
            **recipe,
        )
    )
    task = TrainTask(
        config, dataset_dir, output_dir, stage1_checkpoint, trunk_weights, resume, device, teacher, more_train
    )
    info = train_run(task, ProgressLine(), say)
    if info:
        say(table(info["evaluation"]))
        say_json(as_json, {"output_dir": str(output_dir), "evaluation": info["evaluation"]})


def _model(
    checkpoint: Path | None, trunk: str | None, border: str | None, qindex_input: str, reduction: int, adapters: str
) -> ModelConfig:
    """The model to train: what was not asked for is the checkpoint's, or else the default."""
    from description import BLOCKS, task_of_border
    from train.checkpoint import checkpoint_model
    from train.model import ModelConfig

    task = BLOCKS
    if checkpoint is not None:
        earlier = checkpoint_model(checkpoint)
        trunk, task = trunk or earlier.trunk, earlier.task
    if border is not None:
        task = task_of_border(int(border))
    return configured(lambda: ModelConfig(trunk or "compact", qindex_input, reduction, adapters, task=task))


@click.command()
@click.argument("name", metavar="NAME", type=OneOf(lambda: (*choices.EXPERIMENTS, "all")))
@dataset_option()
@click.option("--output-dir", type=PATH, default=Path("runs/experiments"), help="Finished runs; they are kept.")
@click.option("--results-dir", type=PATH, default=Path("benchmarks/results"), help="Where JSON and PNG go.")
@click.option("--nodes", type=click.IntRange(1), default=100_000, help="Of train, and of val; the same for all runs.")
@click.option("--stage1-epochs", type=click.IntRange(1), default=6)
@click.option("--epochs", type=click.IntRange(1), default=10, help="At most, of stage 2.")
@click.option("--batch-size", type=click.IntRange(2), default=1024)
@click.option("--seeds", type=click.IntRange(2, 20), help="[default: 5 for bn, 3 for the others]")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Runs at once, on one device.")
@_DEVICE
@click.option("--finished-only", is_flag=True, help="Run nothing: tables of the seeds that are finished.")
@json_option
def experiment(
    name: str,
    dataset_dir: Path,
    output_dir: Path,
    results_dir: Path,
    nodes: int,
    stage1_epochs: int,
    epochs: int,
    batch_size: int,
    seeds: int | None,
    jobs: int,
    device: str,
    finished_only: bool,
    as_json: bool,
) -> None:
    """Compare the arms of an experiment over several seeds, paired: a table with intervals, JSON and PNG.

    NAME is bn, adapter-reduction, adapters, loss, augmentation, or all. Finished runs are kept, and not run again.
    """
    from train.experiments.arms import ExperimentSettings
    from train.experiments.command import run_experiments

    settings = configured(
        lambda: ExperimentSettings(dataset_dir, output_dir, nodes, stage1_epochs, epochs, batch_size, device)
    )
    names = choices.EXPERIMENTS if name == "all" else (name,)
    found = run_experiments(names, settings, seeds, jobs, finished_only, results_dir, ProgressLine(), say)
    say_json(as_json, {"experiments": found})
