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
from train.measures.judgement import Fits, classes_of, evaluate_logits
from train.measures.rows import level_rows
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
    fits = None
    task = model.config.task
    if pairs.calib is not None:
        qindex, label = _arrays(pairs.calib)
        model = with_sharpness(model, fit_sharpness(_logits(model, pairs.calib), qindex, label, task))
        fits = _fitted(model, pairs.calib)
    return model, evaluate_logits(_logits(model, pairs.val), *_arrays(pairs.val), task, fits)


def _logits(model: PartitionModel, data: DeviceBlocks) -> NDArray[np.float32]:
    logits = predict_logits(model, data)
    if not np.isfinite(logits).all():
        raise UsageError("the trained model answers with NaN or infinity", "lower the learning rate")
    return logits


def _fitted(model: PartitionModel, calib: DeviceBlocks) -> dict[int, Fits]:
    """Thresholds and decision rule of each level that has a node there."""
    fits = {}
    for rows in level_rows(_logits(model, calib), _arrays(calib)[1], model.config.task):
        if len(rows.label):
            probability, truth = chain_rule(rows.logits, rows.level), classes_of(rows.label, rows.level)
            keep, decision = fit_keep(probability, truth, "calib"), fit_decision(probability, truth, "calib")
            fits[rows.level.node_size] = Fits(keep, decision)
    return fits


def with_sharpness(model: PartitionModel, sharpness: NDArray[np.float32]) -> PartitionModel:
    """A copy of a model whose logits are multiplied by `sharpness` by qindex (PartitionModel.sharpness)."""
    device = next(model.parameters()).device
    made = PartitionModel(replace(model.config, temperature="qindex")).to(device)
    made.load_state_dict(model.state_dict() | {"sharpness": torch.from_numpy(sharpness)}, strict=True)
    return made.eval()


def _arrays(data: DeviceBlocks) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    return data.qindex.cpu().numpy(), data.label.cpu().numpy()
