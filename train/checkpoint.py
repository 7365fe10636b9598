"""Run folders: model.safetensors, run.json, and resume.pt while a run is unfinished. Every write is atomic, every
load is strict."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from description import Task, task_of_border
from errors import ArtefactError, InputError
from files import write_atomically
from train.model import ModelConfig, PartitionModel

RUN_SCHEMA = 2
MODEL_FILE, RUN_FILE, RESUME_FILE = "model.safetensors", "run.json", "resume.pt"


@dataclass(frozen=True)
class Run:
    """An opened run folder: the model in eval mode on the CPU, and run.json."""

    root: Path
    model: PartitionModel
    info: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of the weights file, hex."""
        return hashlib.sha256((self.root / MODEL_FILE).read_bytes()).hexdigest()


def model_bytes(model: PartitionModel) -> bytes:
    """The weights as a safetensors file, with the model's configuration in its header."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(state, {"model_config": json.dumps(model.config.to_json(), sort_keys=True), "task": _task_text(model)})


def save_run(root: Path, model: PartitionModel, info: dict[str, Any]) -> None:
    """Write the weights, then run.json.

    Raises:
        OutputError: if the folder cannot be written.
    """
    write_atomically(root / MODEL_FILE, model_bytes(model))
    about = {"schema": RUN_SCHEMA, "model": model.config.to_json(), "task": model.config.task.to_json()}
    text = json.dumps(about | info, indent=1)
    write_atomically(root / RUN_FILE, (text + "\n").encode())


def load_weights(path: Path, config: ModelConfig) -> PartitionModel:
    """A model of that configuration with exactly the weights of the file, in eval mode.

    Raises:
        ArtefactError: if the file is missing or corrupt, or its tensors are not exactly the model's.
    """
    model = PartitionModel(config)
    state = read_tensors(path)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise ArtefactError(
            f"{path} holds another model: '{odd}' is {found.get(odd, 'missing')}, expected {expected.get(odd, 'none')}",
            "run.json and model.safetensors must come from the same run",
        )
    model.load_state_dict(state, strict=True)
    return model.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ArtefactError: if it is missing or corrupt.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing", "a run folder holds model.safetensors and run.json") from None
    except (SafetensorError, OSError) as error:
        raise ArtefactError(f"{path} is corrupt: {error}", "train again, or restore the file") from None


def open_run(root: Path) -> Run:
    """Open a run folder.

    Raises:
        InputError: if there is no such folder.
        ArtefactError: if it is no finished run, is corrupt, or of a newer version.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is no run folder", "cli.py train makes one")
    if (root / RESUME_FILE).exists() and (root / RUN_FILE).exists():
        hint = "finish it with cli.py train --resume, or delete resume.pt to keep the earlier model"
        raise ArtefactError(f"{root} holds a finished run and a later one that was interrupted", hint)
    info = _read_info(root)
    return Run(root, load_weights(root / MODEL_FILE, _model_config(root, info)), info)


def checkpoint_model(path: Path) -> ModelConfig:
    """Configuration of the model in a run folder, or beside its model.safetensors, without loading it.

    Raises:
        InputError, ArtefactError: as open_run.
    """
    root = path.parent if path.is_file() else path
    if not root.is_dir():
        raise InputError(f"{root} is no run folder", "cli.py train makes one")
    return _model_config(root, _read_info(root))


def _model_config(root: Path, info: dict[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.from_json(info["model"], Task.from_json(info["task"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{root / RUN_FILE} describes no model of this version: {error}") from None


def _read_info(root: Path) -> dict[str, Any]:
    path = root / RUN_FILE
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError:
        hint = "finish it with cli.py train --resume" if (root / RESUME_FILE).exists() else "cli.py train makes one"
        raise ArtefactError(f"{root} holds no finished run", hint) from None
    except (ValueError, RecursionError, OSError) as error:
        raise ArtefactError(f"{path} is corrupt: {error}", "train again, or restore the file") from None
    if not isinstance(info, dict) or not isinstance(info.get("schema"), int):
        raise ArtefactError(f"{path} is no run description")
    try:
        info = _of_schema_1(info) if info["schema"] == 1 else info
    except ValueError as error:
        raise ArtefactError(f"{path} is no run description: {error}") from None
    if info["schema"] != RUN_SCHEMA:
        message = f"{path} has schema {info['schema']}, this version reads {RUN_SCHEMA}"
        raise ArtefactError(message, "update the toolkit")
    return info


def _of_schema_1(info: dict[str, Any]) -> dict[str, Any]:
    """A description from before tasks were written down: the border alone told them apart.

    Raises:
        ValueError: if it is malformed.
    """
    model = info.get("model")
    if not isinstance(model, dict):
        raise ValueError("it names no model")
    task = task_of_border(model.pop("border", 0))
    return info | {"schema": RUN_SCHEMA, "model": model, "task": task.to_json()}


def _task_text(model: PartitionModel) -> str:
    return json.dumps(model.config.task.to_json(), sort_keys=True)


def save_resume(root: Path, state: dict[str, Any]) -> None:
    """Write what an interrupted run needs to go on.

    Raises:
        OutputError: if the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(root / RESUME_FILE, buffer.getvalue())


def load_resume(root: Path) -> dict[str, Any]:
    """What save_resume wrote.

    Raises:
        InputError: if there is nothing to resume.
        ArtefactError: if the file is corrupt.
    """
    path = root / RESUME_FILE
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{root} holds no interrupted run", "leave --resume out to start one") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise ArtefactError(f"{path} is corrupt: {_first_line(error)}", "delete it and train again") from None
    if not isinstance(saved, dict) or "identity" not in saved:
        raise ArtefactError(f"{path} is no state of a training run", "delete it and train again")
    return saved


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
