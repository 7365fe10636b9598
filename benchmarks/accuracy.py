"""Peers on one validation split, in one command: how good is a model, and what would have been easier?

    python -m benchmarks.accuracy --dataset-dir DIR --peers --run compact=runs/compact

Always NONE; class shares by qindex; gradient-boosted trees on block statistics and qindex; and run folders, if asked
for as though they were not told qindex. Thresholds and the decision rule of each are fitted on the 36 train pictures
that calibration sets aside, everything is measured on val, covered counted as NONE, with intervals over its pictures.
Rows that the result file has already are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.block_statistics import NAMES, block_statistics
from benchmarks.picture_bootstrap import PAIRED, Answers, difference, figures
from benchmarks.speed import RESULTS
from console import error_boundary
from data.dataset import BlockSet, joined, load_pictures, load_split, open_dataset
from data.split import calibration_pictures, check_splits
from description import BLOCKS, Task
from errors import InputError
from files import sha256_of, write_atomically
from machine import machine
from partition import Partition
from train.checkpoint import MODEL_FILE, checkpoint_model
from train.measures.candidates import fit_keep
from train.measures.decision import fit_decision
from train.measures.metrics import as_none

CALIBRATION_PICTURES = 36
TREE_PAIRS = 600_000
TREE_ROUNDS = 150
PRIOR_WIDTH = 8.0  # of the Gaussian by which class shares are averaged over qindex

Probabilities = NDArray[np.floating]


@dataclass(frozen=True)
class Splits:
    """All pairs: to learn from, to fit thresholds and rules on, to measure on."""

    train: BlockSet
    calib: BlockSet
    val: BlockSet


def open_splits(dataset_dir: Path, task: Task = BLOCKS, more_train: tuple[Path, ...] = ()) -> tuple[Splits, str]:
    """The splits of a dataset, blocks of that task, and its hash; train with further datasets' train pictures.

    Raises:
        InputError: whatever is wrong with a dataset.
    """
    dataset = open_dataset(dataset_dir)
    pictures = dataset.of_split("train")
    aside = set(calibration_pictures([p.name for p in pictures], CALIBRATION_PICTURES))
    parts = (tuple(p for p in pictures if (p.name in aside) == chosen) for chosen in (False, True))
    train, calib = (load_pictures(dataset, part, "split 'train'", task) for part in parts)
    folders = [open_dataset(folder) for folder in more_train]
    if folders:
        check_splits(dataset, folders, aside)
    further = (load_split(folder, "train", task) for folder in folders)
    return Splits(joined([train, *further]), calib, load_split(dataset, "val", task)), dataset.sha256()


def always_none(splits: Splits) -> tuple[Probabilities, Probabilities]:
    """All probability on NONE, for calib and val; its log loss means nothing."""
    return tuple(np.eye(len(Partition))[np.zeros(len(p), int)] for p in (splits.calib, splits.val))  # type: ignore


def class_shares(splits: Splits) -> tuple[Probabilities, Probabilities]:
    """Class shares of the train pairs by qindex, averaged over neighbouring qindex, for calib and val."""
    counts = np.zeros((256, len(Partition)))
    np.add.at(counts, (splits.train.qindex, as_none(splits.train.label[:, 0])), 1.0)
    distance = np.arange(256)[:, None] - np.arange(256)
    smooth = np.exp(-0.5 * (distance / PRIOR_WIDTH) ** 2) @ counts + 1e-3
    shares = smooth / smooth.sum(1, keepdims=True)
    return shares[splits.calib.qindex], shares[splits.val.qindex]


def boosted_trees(splits: Splits) -> tuple[Probabilities, Probabilities]:
    """Gradient-boosted trees on block statistics and qindex, learnt from a fixed part of the train pairs."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    def features(pairs: BlockSet, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        used, block = np.unique(pairs.block[rows], return_inverse=True)
        statistics = block_statistics(pairs.blocks[used], pairs.bit_depth)[block]
        return np.column_stack([statistics, pairs.qindex[rows].astype(np.float32)])

    rows = np.sort(np.random.default_rng(0).permutation(len(splits.train))[:TREE_PAIRS])
    # Leaves of a few pairs give single pairs a probability of next to nothing, and a log loss that is all theirs.
    options = {"min_samples_leaf": 200, "l2_regularization": 5.0, "early_stopping": False, "random_state": 0}
    trees = HistGradientBoostingClassifier(max_iter=TREE_ROUNDS, **options)
    trees.fit(features(splits.train, rows), as_none(splits.train.label[rows, 0]))

    def says(pairs: BlockSet) -> Probabilities:
        probability = np.zeros((len(pairs), len(Partition)))
        probability[:, trees.classes_] = trees.predict_proba(features(pairs, np.arange(len(pairs))))
        return probability

    return says(splits.calib), says(splits.val)


def run_folder(path: Path, device: str) -> Callable[[Splits], tuple[Probabilities, Probabilities]]:
    """A trained run, under PyTorch.

    Raises:
        ToolkitError: if it does not open.
    """
    from train.batches import DeviceBlocks
    from train.checkpoint import open_run
    from train.distributed import pick_device
    from train.loop import predict_logits

    where = pick_device(device)
    model = open_run(path).model.to(where)

    def says(splits: Splits) -> tuple[Probabilities, Probabilities]:
        parts = (predict_logits(model, DeviceBlocks(pairs, where)) for pairs in (splits.calib, splits.val))
        calib, val = (model.config.task.probability(logits) for logits in parts)
        return calib, val

    return says


def averaged(
    says: Callable[[Splits], tuple[Probabilities, Probabilities]],
) -> Callable[[Splits], tuple[Probabilities, Probabilities]]:
    """The same answers, averaged over the qindex of each block: as much as a model could know that is not told it."""

    def answer(splits: Splits) -> tuple[Probabilities, Probabilities]:
        calib, val = says(splits)
        return mean_by_block(calib, splits.calib.block), mean_by_block(val, splits.val.block)

    return answer


def mean_by_block(probability: Probabilities, block: NDArray[np.integer]) -> Probabilities:
    """Of each pair the mean over all pairs of its block, float64 [M, K].

    Args:
        probability: float [M, K], M at least 1.
        block: which block each pair is of, integer [M], 0 or more.
    """
    sums = np.stack([np.bincount(block, column) for column in probability.T], 1)
    return (sums / np.maximum(np.bincount(block), 1)[:, None])[block]


def judge(says: Callable[[Splits], tuple[Probabilities, Probabilities]], splits: Splits) -> dict[str, Any]:
    """One row: figures with intervals, thresholds and rule, and how long it took to learn and answer, in seconds."""
    start = time.perf_counter()
    calib, val = says(splits)
    seconds = time.perf_counter() - start
    truth = as_none(splits.calib.label[:, 0])
    keep, decision = fit_keep(calib, truth, "calib"), fit_decision(calib, truth, "calib")
    answers = Answers(val, splits.val.qindex, as_none(splits.val.label[:, 0]), splits.val.picture)
    return {
        "figures": figures(answers, keep, decision),
        "keep": dict(keep.thresholds),
        "decision": decision.to_json(),
        "machine": machine(),
        "seconds": round(seconds, 1),
    }


PEERS: dict[str, Callable[[Splits], tuple[Probabilities, Probabilities]]] = {
    "always NONE": always_none,
    "class shares by qindex": class_shares,
    f"boosted trees, {len(NAMES)} statistics and qindex": boosted_trees,
}


def table(result: dict[str, Any]) -> str:
    """Markdown: one row for each model; intervals are 95 % over val pictures."""
    titles = ["", "log loss", "macro-F1, %", "with the rule, %", "accuracy, %", "types at 98 % kept"]
    titles += ["kept, types by calib", "ECE by qindex band, %"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in result["rows"].items():
        f = row["figures"]
        bands = ", ".join(f"{100 * f[k]['value']:.1f}" for k in f if k.startswith("ece_"))
        cells = [
            name,
            "" if name == "always NONE" else _cell(f["log_loss"], 1, 3),
            *(_cell(f[k], 100, 1) for k in ("macro_f1", "decided_macro_f1", "accuracy")),
            _cell(f["mean_set"], 1, 2),
            f"{100 * f['kept']['value']:.2f} %, {f['mean_set_at']['value']:.2f}",
            bands,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def difference_table(result: dict[str, Any], name: str) -> str:
    """Markdown: a model minus each other one, paired over pictures; an interval without 0 tells them apart."""
    lines = [f"| {name} minus | " + " | ".join(("log loss", "macro-F1, pp", "with the rule, pp", "types")) + " |"]
    lines.append("|---" * 5 + "|")
    mine = result["rows"][name]["figures"]
    for other, row in result["rows"].items():
        if other != name:
            found = [difference(mine[k], row["figures"][k]) for k in PAIRED]
            scales = (1, 3), (100, 1), (100, 1), (1, 2)
            cells = [_cell(f, *scale, sign="+") for f, scale in zip(found, scales, strict=True)]
            lines.append("| " + " | ".join([other, *(["", *cells[1:]] if other == "always NONE" else cells)]) + " |")
    return "\n".join(lines)


def _cell(figure: dict[str, float], scale: float, digits: int, sign: str = "") -> str:
    value, low, high = (f"{scale * figure[k]:{sign}.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _task_of(run: Path) -> Task:
    """The task of a run.

    Raises:
        InputError: if it is not of single blocks, which peers and pictures are compared by.
    """
    task = checkpoint_model(run).task
    if task.levels != BLOCKS.levels:
        raise InputError(f"{run} answers nodes of {task.levels[0].node_size}", "this compares models of 16x16 nodes")
    return task


@click.command()
@click.option("--dataset-dir", type=click.Path(path_type=Path), required=True)
@click.option("--run", "runs", multiple=True, metavar="NAME=RUN", help="A run folder, under a name for its row.")
@click.option(
    "--untold",
    multiple=True,
    metavar="NAME=RUN",
    help="A run folder whose answers are averaged over each block's qindex: what a model not told it could say.",
)
@click.option("--peers", is_flag=True, help="Also the peers that need no run.")
@click.option(
    "--more-train",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Further train pictures for peers, in rows of their own.",
)
@click.option("--device", default="auto")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / f"accuracy_{datetime.now(UTC):%Y%m}.json")
def main(
    dataset_dir: Path,
    runs: tuple[str, ...],
    untold: tuple[str, ...],
    peers: bool,
    more_train: tuple[Path, ...],
    device: str,
    output: Path,
) -> None:
    """Judge peers and runs on the val split, and write a row for each."""
    if more_train and not peers:
        raise click.UsageError("--more-train is for peers: runs are trained already")
    (splits, sha256), held = open_splits(dataset_dir, more_train=more_train), BLOCKS
    about = {"dataset_sha256": sha256, "calib": list(splits.calib.pictures), "val": list(splits.val.pictures)}
    rows: dict[str, Any] = {}
    if output.exists():
        before = json.loads(output.read_text())
        rows = before["rows"] if before["dataset_sha256"] == sha256 else {}
    named, weights, tasks = dict(PEERS) if peers else {}, {}, dict.fromkeys(PEERS, BLOCKS)
    if more_train:
        named = {f"{name}, further pictures": peer for name, peer in named.items() if peer is not always_none}
    for text, is_told in (*((text, True) for text in runs), *((text, False) for text in untold)):
        name, _, path = text.partition("=")
        says = run_folder(Path(path or name), device)
        named[name] = says if is_told else averaged(says)
        weights[name] = sha256_of(Path(path or name) / MODEL_FILE)
        tasks[name] = _task_of(Path(path or name))
    # By task, so that the pairs of each are read once.
    for name in sorted(named, key=lambda name: tasks.get(name, BLOCKS).input.border):
        if (task := tasks.get(name, BLOCKS)) != held:
            splits, held = open_splits(dataset_dir, task)[0], task
        rows[name] = judge(named[name], splits) | {"weights_sha256": weights.get(name, "")}
        if more_train and name not in weights:
            rows[name]["more_train_sha256"] = [open_dataset(folder).sha256() for folder in more_train]
        result = about | {"date": f"{datetime.now(UTC):%Y-%m-%d}", "rows": rows}
        write_atomically(output, (json.dumps(result) + "\n").encode())
        click.echo(f"{name}: {rows[name]['seconds']} s")
    click.echo(table(about | {"rows": rows}))


if __name__ == "__main__":
    with error_boundary():
        main(standalone_mode=False)
