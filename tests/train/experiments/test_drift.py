"""train/experiments/drift.py: nothing for a trunk that stays, the formulas for one that moves."""

import math

import numpy as np
import pytest
import torch

from train.batches import Batch
from train.experiments.drift import DriftMeter, linear_cka
from train.freeze import batch_norms


@pytest.fixture
def batch(real_blocks):
    blocks, qindex, label = (torch.from_numpy(a[:64].copy()) for a in real_blocks)
    return Batch(blocks, qindex.long(), label.long())


def test_a_trunk_that_stays_has_no_drift_whatever_happens_to_adapters_and_heads(trained_like, batch):
    model = trained_like()
    meter = DriftMeter(model, batch, 8)
    with torch.no_grad():
        for part in (model.adapters, model.heads):
            for parameter in part.parameters():
                parameter.add_(1.0)
    found = meter.measure(model.train())
    assert found["bn_mean"] == found["bn_var"] == found["feature_l2"] == 0.0
    assert abs(found["feature_cka"]) < 1e-12
    assert not model.training, "measured in eval mode"


def test_moved_statistics_are_measured_in_their_own_units(trained_like, batch):
    model = trained_like()
    meter = DriftMeter(model, batch, 8)
    for bn in batch_norms(model.trunk).values():
        bn.running_mean += 0.5 * bn.running_var.sqrt()
        bn.running_var *= 2.0
    found = meter.measure(model)
    assert math.isclose(found["bn_mean"], 0.5, rel_tol=1e-4) and math.isclose(
        found["bn_var"], math.log(2), rel_tol=1e-4
    )
    assert found["feature_l2"] > 0.01 and 0 < found["feature_cka"] < 1


def slow_cka(a, b):
    """By the two kernels, entry by entry centred."""
    k, m = a @ a.T, b @ b.T
    centre = np.eye(len(a)) - 1 / len(a)
    k, m = centre @ k @ centre, centre @ m @ centre
    return (k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum())


def test_cka_is_the_slow_twin_and_blind_to_rotation_and_scale():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 7)), rng.normal(size=(40, 5))
    assert math.isclose(linear_cka(torch.from_numpy(a), torch.from_numpy(b)), slow_cka(a, b), rel_tol=1e-9)
    turned = 3.0 * a @ np.linalg.qr(rng.normal(size=(7, 7)))[0] + 1.0
    assert math.isclose(linear_cka(torch.from_numpy(a), torch.from_numpy(turned)), 1.0, rel_tol=1e-9)
