"""Fuzz targets of training: a finished run, and what an interrupted one left."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from random import Random

from tests import helpers
from tests.fuzz import media, mutate
from tests.fuzz.harness import Case, run_words
from tests.fuzz.targets import TARGETS, target

__all__ = ["TARGETS"]

_OPTIONS = ("--trunk", "slight", "--qindex-input", "none", "--stage", 1, "--epochs", 2, "--batch-size", 128)


def training(root: Path) -> tuple[tuple, Path]:
    """A command that trains a model of next to no weights for two epochs, and draws nothing; and its run folder."""
    import train.backbones
    import train.curves
    import train.run
    from train.backbones.compact import CompactTrunk

    class Slight(CompactTrunk):
        adapter_channels, features, maps = (8, 8), (8,), ((8, 0), (8, 0), (8, 0))

    def save(figure, path: Path) -> None:
        path.write_bytes(b"a figure")  # drawing one takes longer than the rest

    train.backbones.TRUNKS["slight"] = lambda: Slight
    train.run.save_figure = train.curves.save_figure = save
    train.run.draw_curves = train.curves.draw_confusion = train.curves.draw_candidates = lambda *_: None
    dataset, out = helpers.write_tiny_dataset(root / "dataset", 64), root / "run"
    return ("train", "--dataset-dir", dataset, "--output-dir", out, *_OPTIONS), out


def _trained(root: Path) -> tuple[tuple, Path, list[bytes]]:
    """The command, run; its folder, and each resume.pt that there was on the way."""
    import train.run

    words, out = training(root)
    states, save = [], train.run.save_resume

    def spy(folder, state) -> None:
        save(folder, state)
        states.append((folder / "resume.pt").read_bytes())

    train.run.save_resume = spy
    try:
        run_words(words)
    finally:
        train.run.save_resume = save
    return words, out, states


@target("run")
def run_target(root: Path):
    words, out, _ = _trained(root)
    about, weights = out / "run.json", out / "model.safetensors"
    good = {path: path.read_bytes() for path in (about, weights)}
    old = hashlib.sha256(good[weights]).hexdigest().encode()

    def draw(rng: Random) -> Case:
        files = dict(good)
        if rng.random() < 0.7:
            files[about] = mutate.json_file(rng, good[about])
        else:
            files[weights] = media.safetensors_file(rng, good[weights])
            new = hashlib.sha256(files[weights]).hexdigest().encode()
            files[about] = good[about].replace(old, new)
        return Case(files, ("evaluate", out, "--dataset-dir", words[2]))

    return draw


def _resume_file(rng: Random, data: bytes, values: object) -> bytes:
    """A resume.pt of other values, with another pickle, or a damaged archive."""
    import torch

    kind = rng.random()
    if kind < 0.15:
        return mutate.damage(rng, data, len(data))
    if kind < 0.3:
        return mutate.damage(rng, data[::-1], 400)[::-1]
    if kind < 0.8:
        out = io.BytesIO()
        torch.save(mutate.change_json(rng, values), out)
        return out.getvalue()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    foreign = pickle.dumps(rng.choice((helpers.REPO, print, 7, {"identity": print}, [members])))
    members[name] = rng.choice((mutate.damage(rng, members[name], 300), foreign))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return out.getvalue()


@target("resume")
def resume_target(root: Path):
    import torch

    words, out, states = _trained(root)
    good = [(data, torch.load(io.BytesIO(data), weights_only=True)) for data in states[1:]]

    def draw(rng: Random) -> Case:
        files = {out / "resume.pt": _resume_file(rng, *rng.choice(good))}
        return Case(files, (*words, "--resume"), folder=out)

    return draw
