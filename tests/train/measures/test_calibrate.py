"""calibrate.py and evaluate.py: pictures set aside by name, and temperatures that come out as they went in."""

import hashlib

import numpy as np
import pytest
import torch

from data.split import calibration_pictures
from description import BLOCKS
from errors import InputError
from tests.helpers import COVERED
from train.evaluate import with_sharpness
from train.measures.calibrate import fit_sharpness, qindex_basis
from train.measures.metrics import calibration_error, head_metrics

NAMES = [f"picture{i}" for i in range(40)]

LEVEL = BLOCKS.levels[0]


def drawn(temperature, count=40_000, seed=0):
    """Logits, qindex and labels drawn from them at a temperature by qindex, of the RECT head alone."""
    rng = np.random.default_rng(seed)
    logits, qindex = np.zeros((count, 14)), rng.integers(0, 256, count)
    rect = LEVEL.slices["rect"]
    logits[:, rect] = rng.normal(0, 2, (count, 2))
    difference = (logits[:, rect.start + 1] - logits[:, rect.start]) / temperature(qindex)
    vertical = rng.random(count) < 1 / (1 + np.exp(-difference))
    return logits, qindex, np.where(vertical, 2, 1).astype(np.uint8)


def test_pictures_are_set_aside_by_the_hash_of_their_names_alone():
    chosen = calibration_pictures(NAMES, 4)
    digests = sorted(hashlib.sha256(n.encode()).hexdigest() for n in NAMES)[:4]
    assert sorted(hashlib.sha256(n.encode()).hexdigest() for n in chosen) == digests
    assert set(calibration_pictures(NAMES[::-1], 4)) == set(chosen)
    assert set(calibration_pictures(NAMES, 5)) > set(chosen)
    assert calibration_pictures(NAMES, 0) == ()


@pytest.mark.parametrize("count", [2, 3])
def test_one_picture_is_left_to_train_on(count):
    with pytest.raises(InputError, match=f"{count} of 2 train pictures"):
        calibration_pictures(NAMES[:2], count)


@pytest.mark.parametrize(
    "temperature",
    [lambda q: np.full(len(q), 2.0), lambda q: np.full(len(q), 0.5), lambda q: 0.5 + np.clip(q, 49.5, 225.5) / 150],
    ids=["too sure", "not sure enough", "by qindex"],
)
def test_a_temperature_that_was_put_in_is_found(temperature):
    logits, qindex, label = drawn(temperature)
    fitted = fit_sharpness(logits, qindex, label[:, None], BLOCKS)
    assert fitted.shape == (256, 14) and fitted.dtype == np.float32
    found = 1 / fitted[:, LEVEL.slices["rect"]]
    assert np.array_equal(found[:, 0], found[:, 1])
    assert np.abs(found[:, 0] / temperature(np.arange(256)) - 1).max() < 0.12
    before, after = (head_metrics(z, label, LEVEL)["rect"]["log_loss"] for z in (logits, logits * fitted[qindex]))
    assert after < before - 0.003


def test_heads_without_a_say_stay_as_they_are():
    logits, qindex, label = drawn(lambda q: np.full(len(q), 2.0), count=500)
    fitted = fit_sharpness(logits, qindex, label[:, None], BLOCKS)
    assert (LEVEL.targets["ab"][label] < 0).all()
    assert (fitted[:, LEVEL.slices["ab"]] == 1).all() and (fitted[:, LEVEL.slices["macro"]] == 1).all()
    with_covered = np.append(label, COVERED)
    more = np.append(logits, logits[:1], 0), np.append(qindex, 7), with_covered[:, None]
    assert np.isfinite(fit_sharpness(*more, BLOCKS)).all()


def test_weights_between_the_middles_of_bands_are_linear():
    basis = qindex_basis().numpy()
    assert basis.shape == (256, 4) and np.allclose(basis.sum(1), 1) and (basis >= 0).all()
    assert (basis[:50] == [1, 0, 0, 0]).all() and (basis[226:] == [0, 0, 0, 1]).all()
    assert np.allclose(np.diff(basis[50:123, 1]), np.diff(basis[50:123, 1])[0]), "one straight line"


def test_a_model_with_temperatures_multiplies_its_logits(trained_like, real_blocks):
    blocks, qindex = (torch.from_numpy(a[:64]) for a in real_blocks[:2])
    model = trained_like()
    sharpness = np.random.default_rng(0).uniform(0.5, 2, (256, 14)).astype(np.float32)
    made = with_sharpness(model, sharpness)
    assert made.config.temperature == "qindex" and model.config.temperature == "none"
    with torch.no_grad():
        expected = model(blocks, qindex) * torch.from_numpy(sharpness)[qindex.long()]
        assert torch.equal(made(blocks, qindex), expected)


def test_calibration_error_falls_where_a_model_was_too_sure():
    logits, qindex, label = drawn(lambda q: np.full(len(q), 3.0))
    rect = LEVEL.slices["rect"]

    def error(z):
        p = np.exp(z[1::2, rect]) / np.exp(z[1::2, rect]).sum(1, keepdims=True)
        return calibration_error(p, label[1::2] - 1)

    fitted = fit_sharpness(logits[::2], qindex[::2], label[::2, None], BLOCKS)
    assert error(logits) > 0.1 > 0.02 > error(logits * fitted[qindex])
