"""The last step of a run: temperatures, thresholds and decision rule from the pictures set aside, then val measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from description import chain_rule
from errors import UsageError
from train.batches import DeviceBlocks
from train.loop import predict_logits
from train.measures.calibrate import fit_sharpness
from train.measures.candidates import fit_keep
from train.measures.decision import fit_decision
from train.measures.metrics import columns_of
from train.measures.report import Rules, evaluate_logits
from train.measures.rows import LevelRows, rows_of
from train.model import PartitionModel
from train.pairs import RunPairs


def evaluate_calibrated(model: PartitionModel, pairs: RunPairs) -> tuple[PartitionModel, dict[str, Any]]:
    """The model with the temperatures that fit the pictures set aside, and its report on val.

    Without such pictures the model stays as it is, and the thresholds are fitted on val, as the report says.

    Args:
        model: trained, without temperatures, on the pairs' device.
        pairs: of the run.

    Raises:
        UsageError: if the model answers with what is no number.
    """
    task, rules = model.config.task, {}
    if pairs.calib is not None:
        arrays = _arrays(pairs.calib)
        model = with_sharpness(model, fit_sharpness(task, _logits(model, pairs.calib), *arrays))
        rules = {rows.suffix: _fitted(rows) for rows in rows_of(task, _logits(model, pairs.calib), *arrays)}
    return model, evaluate_logits(task, _logits(model, pairs.val), *_arrays(pairs.val), rules)


def _logits(model: PartitionModel, data: DeviceBlocks) -> NDArray[np.float32]:
    """As predict_logits.

    Raises:
        UsageError: if one is no finite number: then nothing that is made of them means anything.
    """
    logits = predict_logits(model, data)
    if not np.isfinite(logits).all():
        raise UsageError("the trained model answers with NaN or infinity", "lower the learning rate")
    return logits


def _fitted(rows: LevelRows) -> Rules:
    probability, column = chain_rule(rows.logits, rows.level), columns_of(rows.label, rows.level)
    return Rules(fit_keep(probability, column, "calib"), fit_decision(probability, column, "calib"))


def with_sharpness(model: PartitionModel, sharpness: NDArray[np.float32]) -> PartitionModel:
    """A copy of a model whose logits are multiplied by `sharpness` (PartitionModel.sharpness), by qindex."""
    device = next(model.parameters()).device
    made = PartitionModel(replace(model.config, temperature="qindex")).to(device)
    made.load_state_dict(model.state_dict() | {"sharpness": torch.from_numpy(sharpness)}, strict=True)
    return made.eval()


def _arrays(data: DeviceBlocks) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    return data.qindex.cpu().numpy(), data.label.cpu().numpy()
