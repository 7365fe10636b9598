"""Run folders: model.safetensors, run.json, and resume.pt while a run is unfinished. Every write is atomic, every
load is strict: run.json holds the SHA-256 of the weights, so damage, and another run's description, show."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from description import Task, task_of_border
from errors import ArtefactError, InputError, UsageError
from files import write_atomically
from inputs import open_regular
from train.measures.judgement import recorded_fits
from train.model import ModelConfig, PartitionModel

RUN_SCHEMA = 2
MODEL_FILE, RUN_FILE, RESUME_FILE = "model.safetensors", "run.json", "resume.pt"
SHA256_KEY = "weights_sha256"
_RUN_FILE_LIMIT = 64 << 20
_WEIGHTS_LIMIT = 512 << 20


@dataclass(frozen=True)
class Run:
    """An opened run folder.

    Attributes:
        root: the folder.
        model: in eval mode on the CPU.
        info: run.json.
        sha256: of the weights file, hex.
    """

    root: Path
    model: PartitionModel
    info: dict[str, Any]
    sha256: str


def model_bytes(model: PartitionModel) -> bytes:
    """The weights as a safetensors file, with the model's configuration and task in its header.

    The same model gives the same bytes.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    about = model.config.to_json() | {"task": model.config.task.to_json()}
    # One entry alone: safetensors writes several in an order that is drawn anew each time.
    return save(state, {"model_config": json.dumps(about, sort_keys=True)})


def save_run(root: Path, model: PartitionModel, info: dict[str, Any]) -> dict[str, Any]:
    """Write the weights, then run.json.

    Args:
        root: the run folder.
        model: as it is to be opened.
        info: what run.json says besides model, task and the weights' hash.

    Returns:
        run.json as written.

    Raises:
        OutputError: if the folder cannot be written.
        UsageError: if a weight is NaN or infinite.
    """
    if odd := not_finite(model.state_dict()):
        raise UsageError(f"the trained model's '{odd}' is NaN or infinite", "lower the learning rate")
    weights = model_bytes(model)
    about: dict[str, Any] = {"schema": RUN_SCHEMA, "model": model.config.to_json(), "task": model.config.task.to_json()}
    about |= {SHA256_KEY: hashlib.sha256(weights).hexdigest()}
    write_atomically(root / MODEL_FILE, weights)
    write_atomically(root / RUN_FILE, (json.dumps(about | info, indent=1) + "\n").encode())
    return about | info


def not_finite(state: dict[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity, or None."""
    return next((name for name, t in state.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)


def sweep(root: Path) -> None:
    """Remove what a run that was killed left half-written; for whoever holds the folder alone."""
    for path in (*root.glob(".*.*"), *root.glob("*/.*.*")):
        kind = path.name[1:].rpartition(".")[0]
        if kind in (MODEL_FILE, RUN_FILE, RESUME_FILE) or kind.endswith((".png", "_metrics.json")):
            path.unlink(missing_ok=True)


def load_weights(path: Path, config: ModelConfig) -> PartitionModel:
    """A model of that configuration with exactly the weights of the file, in eval mode.

    Raises:
        ArtefactError: if the file is missing or corrupt, its tensors are not exactly the model's, or hold NaN.
    """
    return _model_of(_read_weights(path), path, config, None)


def _model_of(content: bytes, path: Path, config: ModelConfig, sha256: str | None) -> PartitionModel:
    """As load_weights, from a file's content; its hash must be `sha256`, if that is known."""
    model = PartitionModel(config)
    state = _tensors(content, path)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise ArtefactError(
            f"{path} holds another model: '{odd}' is {found.get(odd, 'missing')}, expected {expected.get(odd, 'none')}",
            "run.json and model.safetensors must come from the same run",
        )
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtefactError(
            f"{path} is not the file that {RUN_FILE} was written with: its SHA-256 differs",
            "restore both from the same run, or train again",
        )
    if bad := not_finite(state):
        raise ArtefactError(f"{path}: '{bad}' holds NaN or infinity", "train again, with a lower learning rate")
    model.load_state_dict(state, strict=True)
    return model.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ArtefactError: if it is missing or corrupt.
    """
    return _tensors(_read_weights(path), path)


def _read_weights(path: Path) -> bytes:
    if not path.exists():
        raise ArtefactError(f"{path} is missing", "a run folder holds model.safetensors and run.json")
    return _read_at_most(path, _WEIGHTS_LIMIT)


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise ArtefactError(f"{path} is corrupt: {error}", "train again, or restore the file") from None


def _read_at_most(path: Path, limit: int) -> bytes:
    """All of a regular file.

    Raises:
        ArtefactError: if it cannot be read, or is larger.
    """
    with open_regular(path, ArtefactError) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ArtefactError(f"{path} has {size:,} bytes, at most {limit:,} are expected", "restore the file")
        try:
            return file.read()
        except OSError as error:
            raise ArtefactError(f"{path} is corrupt: {error.strerror}", "restore the file") from None


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
    config = _model_config(root, info)
    content = _read_weights(root / MODEL_FILE)
    model = _model_of(content, root / MODEL_FILE, config, info.get(SHA256_KEY))
    try:
        recorded_fits(info.get("evaluation", {}), config.task)
    except ValueError as error:
        raise ArtefactError(f"{root / RUN_FILE} is no run description: {error}", "restore it, or train again") from None
    return Run(root, model, info, hashlib.sha256(content).hexdigest())


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
        raise ArtefactError(f"{root / RUN_FILE} describes no model of this version: {error}", "train again") from None


def _read_info(root: Path) -> dict[str, Any]:
    path = root / RUN_FILE
    if not path.exists():
        hint = "finish it with cli.py train --resume" if (root / RESUME_FILE).exists() else "cli.py train makes one"
        raise ArtefactError(f"{root} holds no finished run", hint)
    content = _read_at_most(path, _RUN_FILE_LIMIT)
    try:
        info = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is corrupt: {error}", "train again, or restore the file") from None
    if not isinstance(info, dict) or type(info.get("schema")) is not int:
        raise ArtefactError(f"{path} is no run description", "restore the file, or train again")
    if info["schema"] == 1:
        return _of_schema_1(info, path)
    if info["schema"] != RUN_SCHEMA:
        message = f"{path} has schema {info['schema']}, this version reads {RUN_SCHEMA}"
        raise ArtefactError(message, "update the toolkit")
    if not isinstance(info.get(SHA256_KEY), str):
        raise ArtefactError(f"{path} does not name the SHA-256 of its weights", "restore the file, or train again")
    return info


def _of_schema_1(info: dict[str, Any], path: Path) -> dict[str, Any]:
    """A description from before tasks and hashes were written down: the border alone told tasks apart."""
    model = info.get("model")
    try:
        if not isinstance(model, dict):
            raise ValueError("it names no model")
        task = task_of_border(model.pop("border", 0))
    except ValueError as error:
        raise ArtefactError(f"{path} is no run description: {error}", "restore the file, or train again") from None
    return info | {"schema": RUN_SCHEMA, "model": model, "task": task.to_json()}
