"""The commands that are killed, by name (kill.Loop), each with a good earlier result where it writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests import helpers
from tests.fuzz import runs, targets
from tests.fuzz.harness import run_words
from tests.fuzz.kill import Loop

LOOPS: dict[str, Callable[[Path], Loop]] = {}


def _loop(prepare: Callable[[Path], Loop]) -> Callable[[Path], Loop]:
    LOOPS[prepare.__name__] = prepare
    return prepare


def _either(path: Path, words: tuple[tuple, tuple]) -> Callable[[], None]:
    """Whether a file is what one of the two commands writes, to the byte."""
    good = []
    for each in words:
        run_words(each)
        good.append(path.read_bytes())
    assert good[0] != good[1]

    def whole() -> None:
        assert path.read_bytes() in good, f"{path} is neither result"

    return whole


def _predict(root: Path, name: str) -> Loop:
    bundle, clip, out = targets.SmallBundle(root / "bundle", targets.WEIGHTS), root / "clip.y4m", root / name
    clip.write_bytes(targets.y4m())
    command = ("predict", clip, "--bundle", bundle.root, "--output", out, "--runtime", "torch", "--qindex")
    words = (*command, 60), (*command, 200)
    return Loop(words, _either(out, words))


@_loop
def predict_npz(root: Path) -> Loop:
    return _predict(root, "out.npz")


@_loop
def predict_map(root: Path) -> Loop:
    return _predict(root, "out.apm")


@_loop
def dataset_build(root: Path) -> Loop:
    """A second picture is added to a dataset of one."""
    from data.dataset import load_pictures, open_dataset

    targets.encode_here()
    pictures, out = [root / "a.png", root / "b.png"], root / "dataset"
    for i, path in enumerate(pictures):
        path.write_bytes(helpers.png(targets.luma(48, 32, 40 + 8 * i)))
    options = ("--output-dir", out, "--qindex", "80,220", "--cpu-used", 9, "--jobs", 1)
    one, both = (("dataset", "build", *pictures[:n], *options) for n in (1, 2))
    run_words(one)
    kept = shutil.copytree(out, root.parent / "kept")

    def start() -> None:
        for path in kept.rglob("*.*"):  # what a killed build left beside stays for the next
            (out / path.relative_to(kept)).parent.mkdir(exist_ok=True)
            shutil.copy2(path, out / path.relative_to(kept))
        for path in out.glob("l*/b.*"):
            path.unlink()

    def whole() -> None:
        opened = open_dataset(out)
        load_pictures(opened, opened.pictures, "all")
        assert {p.name for p in opened.pictures} >= {"a"}

    return Loop((both, both), whole, start)


@_loop
def train(root: Path) -> Loop:
    from train.checkpoint import open_run

    words, out = runs.training(root)
    copy = root.parent / "copy"

    def whole() -> None:
        """Opens as it is; or without resume.pt, as the error's hint says; or once it is resumed."""
        shutil.rmtree(copy, ignore_errors=True)
        helpers.copy_of(out, copy)
        (copy / "resume.pt").unlink(missing_ok=True)
        open_run(copy)

    return Loop((words, (*words, "--seed", 7)), whole)


@_loop
def export(root: Path) -> Loop:
    from bundle import open_bundle

    _few_reference_pairs()
    words, out = runs.training(root)
    run_words(words)
    run_words((*words, "--seed", 7, "--output-dir", root / "other"))
    bundle = root / "bundle"
    options = ("--output-dir", bundle, "--fold-bn", "--onnx-input", "uint8")
    return Loop(
        (("export", "--run", out, *options), ("export", "--run", root / "other", *options)),
        lambda: open_bundle(bundle),
    )


def _few_reference_pairs() -> None:
    import export.run

    whole = export.run.reference_set
    export.run.reference_set = lambda model, count=None, seed=0: whole(model, 64, seed)
