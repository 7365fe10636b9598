"""resume.pt: what an interrupted run needs to go on, and nothing that is taken on trust."""

from __future__ import annotations

import io
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import ArtefactError, InputError
from files import write_atomically
from inputs import open_regular
from train.checkpoint import RESUME_FILE
from train.config import settings_of_today

_HINT = "delete it and train again"
# Model, what trains it, its best epoch, its average and two moments of each weight, and as much again.
_COPIES = 16
_OVERHEAD = 64 << 20


@dataclass(frozen=True)
class ResumeState:
    """Where a run stands.

    Attributes:
        identity: what the run is of, as plain values; a run goes on only with what it was started with.
        stage: number of the stage that is being trained.
        stages: of those finished, what run.json will say, by number.
        model: weights at the start of the stage.
        loop: what StageLoop.checkpoint gave; None between stages.
    """

    identity: dict[str, Any]
    stage: int
    stages: dict[str, dict[str, Any]]
    model: dict[str, Tensor]
    loop: dict[str, Any] | None


def save_resume(root: Path, state: ResumeState) -> None:
    """Write it.

    Raises:
        OutputError: if the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({each.name: getattr(state, each.name) for each in fields(state)}, buffer)
    write_atomically(root / RESUME_FILE, buffer.getvalue())


def require_resume(root: Path) -> None:
    """Refuse a folder that holds no interrupted run.

    Raises:
        InputError: if it is one.
    """
    if not (root / RESUME_FILE).exists():
        raise InputError(f"{root} holds no interrupted run", "leave --resume out to start one")


def load_resume(root: Path, model_bytes: int) -> ResumeState:
    """What save_resume wrote.

    Args:
        root: the run folder.
        model_bytes: of the weights that the run trains: how large the file may be follows from it.

    Raises:
        InputError: if there is nothing to resume.
        ArtefactError: if the file is corrupt, too large or of something else.
    """
    require_resume(root)
    path = root / RESUME_FILE
    with open_regular(path, ArtefactError) as file:
        limit = _OVERHEAD + _COPIES * model_bytes
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
            if size <= limit:
                file.seek(0)
                saved = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch and zipfile raise many kinds for a damaged file
            raise ArtefactError(f"{path} is corrupt: {str(error).partition(chr(10))[0]}", _HINT) from None
    if size > limit:
        raise ArtefactError(f"{path} holds {size:,} bytes, such a run needs at most {limit:,}", _HINT)
    return _checked(saved, path)


def _checked(saved: object, path: Path) -> ResumeState:
    try:
        state = ResumeState(**saved)  # type: ignore[arg-type]
        fits = (
            isinstance(state.identity, dict)
            and type(state.stage) is int
            and isinstance(state.stages, dict)
            and all(isinstance(k, str) and isinstance(v, dict) for k, v in state.stages.items())
            and is_state_dict(state.model)
            and (state.loop is None or isinstance(state.loop, dict))
        )
    except TypeError:
        fits = False
    if not fits:
        raise ArtefactError(f"{path} is no state of a training run", _HINT)
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        _as_of_today(state.identity)
    return state


def is_state_dict(values: object) -> bool:
    """Whether these are tensors by name."""
    return isinstance(values, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items())


def _as_of_today(identity: dict[str, Any]) -> None:
    """Give what an earlier version wrote down the form it has today."""
    identity["config"] = settings_of_today(identity["config"])
    identity.setdefault("more_train_sha256", [])
    if identity.pop("teacher_sha256", "none") is None:
        identity["teachers_sha256"] = []
