"""Parity certificates: each file of a bundle against the reference, on real blocks, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import SAMPLE_DIR, load_split, open_dataset
from infer.parity import compare, require
from infer.session import Session
from infer.torch_session import reference_prediction
from train.config import Announce
from train.model import PartitionModel

BATCH = 8160


@dataclass(frozen=True)
class ReferenceSet:
    """Real blocks with the reference's answers.

    Attributes:
        blocks: [B, 16, 16], uint8, or uint16 at 10 and 12 bit.
        block: row of `blocks` of each pair, int64 [M].
        qindex: uint8 [M].
        logits: of the unfolded PyTorch model in float32 on the CPU, float32 [M, 14].
    """

    blocks: NDArray[np.integer]
    block: NDArray[np.int64]
    qindex: NDArray[np.uint8]
    logits: NDArray[np.float32]


def sample_pairs() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    """All labelled pairs of the embedded sample: blocks uint8 [B, 16, 16], row int64 [M] and qindex uint8 [M] of each.

    Raises:
        InputError: if the sample is damaged.
    """
    dataset = open_dataset(SAMPLE_DIR)
    parts = [load_split(dataset, split) for split in ("train", "val", "test")]
    starts = np.cumsum([0] + [len(p.blocks) for p in parts])
    return (
        np.concatenate([p.blocks for p in parts]).astype(np.uint8),
        np.concatenate([p.block + s for p, s in zip(parts, starts, strict=False)]),
        np.concatenate([p.qindex for p in parts]),
    )


def reference_set(model: PartitionModel, count: int | None = None, seed: int = 0) -> ReferenceSet:
    """The reference's answers on the embedded sample.

    Args:
        model: unfolded, in eval mode, on the CPU.
        count: pairs to draw, with qindex spread over all of 0-255; None takes every labelled pair at its own qindex.
        seed: of the draw.
    """
    blocks, block, qindex = sample_pairs()
    if count is not None:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(blocks))[:count])
        blocks, block = blocks[chosen], np.arange(len(chosen))
        qindex = rng.permutation(np.arange(len(chosen)) % 256).astype(np.uint8)
    logits = [
        reference_prediction(model, blocks[block[i : i + BATCH]], qindex[i : i + BATCH], 8).logits
        for i in range(0, len(block), BATCH)
    ]
    return ReferenceSet(blocks, block, qindex, np.concatenate(logits))


def certify(session: Session, reference: ReferenceSet, row: str, announce: Announce = lambda _: None) -> dict[str, Any]:
    """Run a session on the reference set and judge it.

    Args:
        session: of the file to certify.
        reference: what it must agree with.
        row: key of infer.parity.TOLERANCES.
        announce: told the result in one line.

    Returns:
        The certificate for the manifest: tolerance row, who computed it, and infer.parity's report.

    Raises:
        ParityError: if it does not agree.
    """
    logits = [
        session.predict(reference.blocks[reference.block[i : i + BATCH]], reference.qindex[i : i + BATCH]).logits
        for i in range(0, len(reference.block), BATCH)
    ]
    report = compare(reference.logits, np.concatenate(logits), reference.qindex)
    require(report, row, session.info.file)
    announce(f"parity under {session.info.describe()}: {report.summary()}")
    return {"tolerance": row, "computed_by": session.info.describe(), "report": report.to_json()}
