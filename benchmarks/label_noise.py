"""How sure of a label can any predictor be? The val pictures, encoded again and again with noise that nobody sees.

    python -m benchmarks.label_noise --dataset-dir DIR --bundle models/accurate

Each val picture of the dataset is encoded as monochrome at each of its qindex, ENCODES times, an eighth of its samples
one brighter or darker, others each time. What a predictor of partitions is given is the same but for that. So the
spread of a block's labels is chance to it, and no predictor's mean log loss is below the labels' mean entropy. That of
what a few encodes show is too low, so it is a bound from below; one from above is the loss of a guess at each encode
that knows what the others said. Writes results/label_noise_<hardware>_<yyyymm>.json (12 minutes on two cores).
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed import RESULTS, result_name
from bundle import open_bundle
from console import error_boundary
from data.cutting import cut_blocks
from data.dataset import open_dataset
from data.encode import encode_frame, local_workers
from description import BLOCKS
from encoder.libaom.library import EncodeOptions, ensure_libaom
from errors import InputError
from files import write_atomically
from frames.frame import Frame, FrameFormat
from infer.open import open_session
from infer.session import SessionOptions
from machine import cpu_name, machine
from partition import NODE_SIZE, PARTITION_NAMES, candidate_sets, partitions_from_map
from train.measures.candidates import fit_keep
from train.measures.metrics import as_none

ENCODES = 8
SHARE = 1 / 8
"""Of the samples, one brighter or darker."""
PRIOR = 2.0
"""How many encodes the model's answer counts as, beside what the other encodes said."""


def dithered(luma: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """A picture [H, W] with SHARE of its samples one brighter or darker."""
    rng = np.random.default_rng(seed)
    noise = rng.choice(np.array([-1, 0, 1], np.int16), luma.shape, p=(SHARE / 2, 1 - SHARE, SHARE / 2))
    return np.clip(luma + noise, 0, 255).astype(np.uint8)


def labels_of(luma: NDArray[np.uint8], qindex: int, seed: int) -> NDArray[np.uint8]:
    """Partitions of all whole nodes of one encode, covered as NONE, uint8 [B]."""
    height, width = luma.shape
    frame = Frame((dithered(luma, seed),))
    coded = encode_frame(frame, FrameFormat(width, height, 8, "mono"), qindex, EncodeOptions())
    return as_none(partitions_from_map(coded.bsize, width, height).ravel()).astype(np.uint8)


def counts_of(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many of E encodes gave a block each type: int64 [N, 10] from labels [E, N]."""
    return np.stack([(labels == k).sum(0) for k in range(len(PARTITION_NAMES))], 1)


def entropy(counts: NDArray[np.integer]) -> float:
    """Mean over blocks of the entropy of the shares seen, in nats: at most the mean entropy of what they were drawn
    from, since entropy is concave.

    Args:
        counts: [N, 10], of each block and type.
    """
    share = counts / counts.sum(1, keepdims=True)
    return float(-(share * np.log(share, out=np.zeros_like(share), where=share > 0)).sum(1).mean())


def agreement(counts: NDArray[np.integer]) -> float:
    """How often two encodes give a block the same type, 0-1."""
    total = counts.sum(1)
    return float(((counts * (counts - 1)).sum(1) / (total * (total - 1))).mean())


def others_say(labels: NDArray[np.integer], model: NDArray[np.floating], prior: float) -> NDArray[np.float64]:
    """Of each encode: the shares of types in all others, the model's answer counted as `prior` encodes.

    Args:
        labels: [E, N].
        model: probabilities [N, 10].
        prior: above 0.

    Returns:
        Probabilities, float64 [E, N, 10].
    """
    counts = counts_of(labels)
    own = np.arange(model.shape[1]) == labels[..., None]
    return (counts - own + prior * model) / (len(labels) - 1 + prior)


def judged(probability: NDArray[np.floating], label: NDArray[np.integer]) -> dict[str, float]:
    """Log loss in nats, accuracy 0-1, and the mean candidate set that keeps 98 % of these labels."""
    rows = np.arange(len(label))
    threshold = fit_keep(probability, label, "val").thresholds["0.98"]
    return {
        "log_loss": float(-np.log(np.maximum(probability[rows, label], 1e-12)).mean()),
        "accuracy": float((probability.argmax(1) == label).mean()),
        "types_at_98": float(candidate_sets(probability, threshold).sum(1).mean()),
    }


def figures(labels: NDArray[np.integer], model: NDArray[np.floating]) -> dict[str, Any]:
    """What E encodes of N blocks [E, N] say, and the model's probabilities [N, 10] beside them."""
    counts, flat = counts_of(labels), labels.ravel()
    informed = others_say(labels, model, PRIOR).reshape(-1, model.shape[1])
    return {
        "pairs": labels.shape[1],
        "agreement": agreement(counts),
        "entropy": entropy(counts),
        "others": judged(informed, flat),
        "model": judged(np.tile(model, (len(labels), 1)), flat),
    }


def whole_blocks(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The blocks of all whole nodes of a plane, [B, 16, 16]."""
    height, width = (side // NODE_SIZE * NODE_SIZE for side in luma.shape)
    return cut_blocks(luma[:height, :width], BLOCKS.input).astype(np.uint8)


def encoded(
    luma: NDArray[np.uint8], qindex: NDArray[np.uint8], encodes: int, pool: Executor
) -> list[NDArray[np.uint8]]:
    """Labels of a picture [H, W] at each qindex, [E, B]."""
    tasks = [[pool.submit(labels_of, luma, int(q), seed) for seed in range(encodes)] for q in qindex]
    return [np.stack([task.result() for task in tasks_of_q]) for tasks_of_q in tasks]


def main(words: list[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-dir", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=Path("models/accurate"), help="a model without a border")
    parser.add_argument("--encodes", type=int, default=ENCODES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, help="in place of the file in benchmarks/results")
    args = parser.parse_args(words)
    if args.encodes < 2:
        parser.error("--encodes is 2 at least: one has no other to differ from")
    result = measure(args.dataset_dir, args.bundle, args.encodes, args.jobs)
    path = args.output or RESULTS / result_name(cpu_name(), result["date"], "label_noise")
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    print(f"wrote {path}")


Part = tuple[str, int, NDArray[np.uint8], NDArray[np.float64], float]
"""Picture, qindex, labels [E, B], the model's probabilities [B, 10], and how far they moved with the noise, 0-1."""


def measure(dataset_dir: Path, bundle_dir: Path, encodes: int, jobs: int) -> dict[str, Any]:
    """All val pictures of a dataset; figures overall, by picture and by qindex.

    Raises:
        ToolkitError: whatever is wrong with the dataset or the bundle, or if libaom fails.
    """
    dataset, bundle = open_dataset(dataset_dir), open_bundle(bundle_dir)
    pictures = dataset.of_split("val")
    if bundle.manifest.task.input.border or bundle.manifest.task.levels != BLOCKS.levels:
        message = f"{bundle_dir} is of a model with a border, or of other nodes"
        raise InputError(message, "name one that sees 16x16 blocks alone")
    if any(picture.bit_depth != 8 for picture in pictures):
        raise InputError(f"{dataset_dir} has val pictures of more than 8 bit", "the noise is made for 8 bit")
    ensure_libaom(print)
    session = open_session(bundle, "onnxruntime-cpu", SessionOptions(8))
    parts = []
    with local_workers(jobs) as (pool, _):
        for picture in pictures:
            luma = dataset.luma(picture).astype(np.uint8)
            values = dataset.labels(picture, BLOCKS)[0]
            for q, labels in zip(values, encoded(luma, values, encodes, pool), strict=True):
                plain, noisy = (
                    BLOCKS.probability(
                        session.predict(whole_blocks(plane), np.full(labels.shape[1], q, np.uint8)).logits
                    )
                    for plane in (luma, dithered(luma, 0))
                )
                parts.append((picture.name, int(q), labels, plain, float(np.abs(noisy - plain).sum(1).mean() / 2)))
            print(f"{picture.name}: {_line(_joined(parts[-len(values) :]))}", flush=True)
    result = _joined(parts)
    print(_line(result))
    return {
        "dataset_sha256": dataset.sha256(),
        "bundle": bundle.manifest.run_sha256,
        "machine": machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "encodes": encodes,
        "all": result,
        "by_picture": {
            name: _joined([p for p in parts if p[0] == name]) for name in dict.fromkeys(p[0] for p in parts)
        },
        "by_qindex": {q: _joined([p for p in parts if p[1] == q]) for q in sorted({p[1] for p in parts})},
    }


def _joined(parts: list[Part]) -> dict[str, Any]:
    found = figures(np.concatenate([p[2] for p in parts], 1), np.concatenate([p[3] for p in parts]))
    return found | {"model_moved": float(np.average([p[4] for p in parts], weights=[len(p[3]) for p in parts]))}


def _line(found: dict[str, Any]) -> str:
    return (
        f"two encodes agree in {100 * found['agreement']:.1f} %; log loss {found['entropy']:.3f} at least,"
        f" {found['others']['log_loss']:.3f} told the other encodes, the model {found['model']['log_loss']:.3f};"
        f" types at 98 % {found['others']['types_at_98']:.2f}, {found['model']['types_at_98']:.2f}"
    )


if __name__ == "__main__":
    with error_boundary():
        main()
