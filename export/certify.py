"""What the files of a bundle are certified against: the reference's answers on the embedded sample."""

from __future__ import annotations

import numpy as np

from data.dataset import SAMPLE_DIR, SPLITS, BlockSet, joined, load_split, open_dataset
from description import BLOCKS, Task
from errors import ParityError
from infer.certificate import BATCH, Certificate, ReferenceSet, certificates
from infer.session import Session
from infer.sessions.torch_session import reference_prediction
from progress import Announce
from train.model import PartitionModel


def sample_pairs(task: Task = BLOCKS) -> BlockSet:
    """All labelled pairs of the embedded sample, its splits one after another, as blocks of that task.

    Raises:
        InputError: if the sample is damaged.
    """
    dataset = open_dataset(SAMPLE_DIR)
    return joined([load_split(dataset, split, task) for split in SPLITS])


def reference_set(model: PartitionModel, count: int | None = None, seed: int = 0) -> ReferenceSet:
    """The reference's answers on the embedded sample.

    Args:
        model: unfolded, in eval mode, on the CPU.
        count: blocks to draw, with qindex spread over all of 0-255 and no labels, since no encode used most of these;
            None takes every labelled pair at its own qindex.
        seed: of the draw.
    """
    task = model.config.task
    pairs = sample_pairs(task)
    blocks, block, qindex, label = pairs.blocks, pairs.block, pairs.qindex, pairs.label
    if count is not None:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(blocks))[:count])
        blocks, block = blocks[chosen], np.arange(len(chosen))
        qindex = rng.permutation(np.arange(len(chosen)) % 256).astype(np.uint8)
    logits = [
        reference_prediction(model, blocks[block[i : i + BATCH]], qindex[i : i + BATCH], 8).logits
        for i in range(0, len(block), BATCH)
    ]
    return ReferenceSet(blocks, block, qindex, np.concatenate(logits), label if count is None else None, task)


def certify(
    session: Session, reference: ReferenceSet, row: str, announce: Announce = lambda _: None
) -> dict[str, Certificate]:
    """Run a session on the reference set and judge it.

    Args:
        session: of the file to certify.
        reference: what it must agree with.
        row: key of infer.parity.TOLERANCES.
        announce: told the result in one line for each level.

    Returns:
        The certificate of each level, by its suffix (infer.certificate.certificates).

    Raises:
        ParityError: if it does not agree.
    """
    made = certificates(session, reference, row)
    for suffix, each in made.items():
        if found := each.problems():
            hint = f"{each.report.summary()}; tolerance row '{row}'"
            raise ParityError(f"{session.info.file}{suffix}: {'; '.join(found)}", hint)
        nodes = f" of nodes of {suffix[1:]}" if suffix else ""
        announce(f"parity{nodes} under {session.info.describe()}: {each.report.summary()}")
    return made
