"""Where a run starts from: an earlier run's weights, a trunk's, teachers; each refused if it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from description import Task
from errors import ArtefactError, UsageError
from train.checkpoint import Run, open_run, read_tensors
from train.config import TrainConfig, TrainTask
from train.model import PartitionModel
from train.stages import stages_of, stages_of_run


def earlier_run(task: TrainTask) -> Run | None:
    """The run whose stages a task builds on; None if it starts with the first stage.

    Raises:
        UsageError: if it needs one and names none.
        ToolkitError: as open_run.
    """
    path = task.stage1_checkpoint
    if path is None:
        if task.config.stages[0] != stages_of(task.config.model.task)[0].number:
            raise UsageError("stages 2 and 3 start from an earlier run", "name it with --stage1-checkpoint RUN")
        return None
    return open_run(path.parent if path.is_file() else path)


def config_for(task: TrainTask, start: Run | None) -> TrainConfig:
    """The task's configuration; with an earlier run, its trunk decides and must not be contradicted.

    Raises:
        ArtefactError: if it is.
    """
    if start is None:
        return task.config
    model = task.config.model
    have, asked = start.model.config, model.trunk
    if asked != have.trunk:
        raise ArtefactError(
            f"{start.root} holds a {have.trunk} trunk, --trunk says {asked}", f"use --trunk {have.trunk}"
        )
    if have.form.border != model.form.border:
        message = f"{start.root} sees blocks with a border of {have.form.border}, --border says {model.form.border}"
        raise ArtefactError(message, f"use --border {have.form.border}")
    if have.task != model.task:
        raise ArtefactError(f"{start.root} is of task '{have.task.name}', this run of '{model.task.name}'")
    return replace(task.config, model=replace(model, qindex_input=have.qindex_input))


def teachers_of(task: TrainTask, config: TrainConfig) -> list[Run]:
    """The runs that teach.

    Raises:
        UsageError: if there is a teacher that counts for nothing, or none that would.
        ArtefactError: if one answers something else than the model.
        ToolkitError: as open_run.
    """
    if (not task.teachers) != (config.distillation == 0.0):
        raise UsageError("a teacher and how much it counts go together", "give --teacher RUN, or --distillation 0")
    found = [open_run(path) for path in task.teachers]
    for teacher in found:
        if _answers(teacher.model.config.task) != _answers(config.model.task):
            raise ArtefactError(f"{teacher.root} answers other nodes or types than the model that it is to teach")
    return found


def _answers(task: Task) -> tuple[object, ...]:
    return task.input.unit, tuple((level.node_size, level.types) for level in task.levels)


def widest_border(teachers: Sequence[Run], task: Task) -> int:
    """Samples around a block that the model or one of its teachers sees."""
    return max([task.input.border, *(t.model.config.form.border for t in teachers)])


def load_start(model: PartitionModel, config: TrainConfig, start: Run | None, trunk_weights: Path | None) -> None:
    """Give a fresh model the weights that the run takes over.

    Raises:
        ArtefactError: if they do not fit.
    """
    if start is not None:
        _load_earlier(model, config, start)
    if trunk_weights is not None:
        _load_trunk(model, config.model.trunk, trunk_weights)


def _load_earlier(model: PartitionModel, config: TrainConfig, start: Run) -> None:
    """Weights of earlier stages: those that no stage of this run makes anew."""
    first = stages_of_run(config.stages, config.model.task)[0]
    if "adapters" in first.frozen and replace(start.model.config, temperature="none") != config.model:
        raise ArtefactError(
            f"{start.root} has {start.model.config.to_json()}",
            f"stage {first.number} keeps the adapters: use the same --adapter-reduction and --adapters",
        )
    keep = first.kept(config.model.task)
    state = start.model.state_dict()
    model.load_state_dict({k: v for k, v in state.items() if k.startswith(keep)}, strict=False)


def _load_trunk(model: PartitionModel, name: str, path: Path) -> None:
    state = read_tensors(path)
    shapes = {k: tuple(v.shape) for k, v in model.trunk.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    # A trunk trained without qindex has no films; everything else must be there, and nothing else.
    expected = {k: v for k, v in shapes.items() if k in found or not k.startswith("films.")}
    if found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise ArtefactError(f"{path} holds no {name} trunk", f"'{odd}' differs or is missing")
    model.trunk.load_state_dict(state, strict=False)
