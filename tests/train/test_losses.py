"""train/losses.py against formulas written out sample by sample in float64."""

import math

import numpy as np
import pytest
import torch

from train.losses import LOSSES, class_balance_weights, make_loss

COUNTS = np.array([5000, 300, 20, 1])


def slow_probability(logits, target):
    top = max(logits)
    exps = [math.exp(z - top) for z in logits]
    return exps[target] / math.fsum(exps)


def slow_weights(counts, beta=0.9999):
    weights = [(1 - beta) / (1 - beta**n) if n else None for n in counts.tolist()]
    mean = np.mean([w for w in weights if w is not None])
    return [0.0 if w is None else w / mean for w in weights]


def slow_loss(name, logits, target, gamma):
    p = slow_probability(logits, target)
    if name == "cross-entropy":
        return -math.log(p)
    if name == "focal":
        return -((1 - p) ** gamma) * math.log(p)
    if name == "cb-focal":
        return slow_weights(COUNTS)[target] * -((1 - p) ** gamma) * math.log(p)
    if name == "poly":
        return -math.log(p) + 1.0 * (1 - p)
    classes = len(logits)
    if name == "asymmetric":
        others = [max(slow_probability(logits, c) - 0.05, 0) for c in range(classes) if c != target]
        return -math.log(p) - sum(q**4 * math.log(1 - q) for q in others)
    log_p = [math.log(slow_probability(logits, c)) for c in range(classes)]
    return -sum((0.9 * (c == target) + 0.1 / classes) * log_p[c] for c in range(classes))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.0])
def test_each_loss_is_its_formula(name, gamma):
    rng = np.random.default_rng(3)
    logits, target = rng.normal(0, 2.5, (200, 4)), rng.integers(0, 4, 200)
    found = make_loss(name, COUNTS, gamma)(torch.from_numpy(logits), torch.from_numpy(target))
    expected = [slow_loss(name, z.tolist(), int(t), gamma) for z, t in zip(logits, target, strict=True)]
    assert found.shape == (200,)
    assert np.allclose(found, expected, rtol=1e-6 if name == "cb-focal" else 1e-9, atol=1e-12)


def test_the_losses_are_there():
    assert set(LOSSES) == {"cross-entropy", "focal", "cb-focal", "poly", "asymmetric", "label-smoothing"}


def test_focal_with_gamma_0_is_cross_entropy():
    logits, target = torch.randn(50, 3, dtype=torch.float64), torch.randint(0, 3, (50,))
    assert torch.equal(
        make_loss("focal", COUNTS, 0.0)(logits, target), make_loss("cross-entropy", COUNTS)(logits, target)
    )


def test_focal_minds_easy_samples_less():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    target = torch.tensor([0, 0])
    easy, hard = make_loss("focal", COUNTS, 2.0)(logits, target) / make_loss("cross-entropy", COUNTS)(logits, target)
    assert easy < 0.001 and hard > 0.9


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 90.0, 1e4])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_losses_and_gradients_are_finite_at_extreme_logits(name, scale, gamma):
    logits = (scale * torch.tensor([[1.0, -1.0, 0.5], [1.0, -1.0, 0.5], [0.0, 0.0, 0.0]])).requires_grad_()
    loss = make_loss(name, COUNTS[:3], gamma)(logits, torch.tensor([0, 1, 2]))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and (loss >= 0).all()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1, 1] < 0, "a wrong answer is pushed the right way, however wrong"


def test_focal_gradient_at_confident_samples_is_the_formulas():
    """At p = 0.9975, in float32."""
    logits = torch.tensor([[6.0, 0.0]], requires_grad=True)
    make_loss("focal", COUNTS, 2.0)(logits, torch.tensor([0])).sum().backward()
    p = 1 / (1 + math.exp(-6.0))
    expected = (2 * p * math.log(p) * (1 - p) ** 2) - (1 - p) ** 3  # d/dz of -(1-p)^2 log p
    assert math.isclose(float(logits.grad[0, 0]), expected, rel_tol=1e-3)


def test_class_balance_weights():
    weights = class_balance_weights(COUNTS)
    assert np.allclose(weights, slow_weights(COUNTS), rtol=1e-6)
    assert math.isclose(float(weights.mean()), 1.0, rel_tol=1e-6)
    assert (weights.diff() > 0).all(), "the rarer, the heavier"


def test_a_class_that_never_occurs_has_weight_0_and_the_others_mean_1():
    weights = class_balance_weights(np.array([100, 0, 10]))
    assert weights[1] == 0 and math.isclose(float(weights[[0, 2]].mean()), 1.0, rel_tol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_head_without_a_single_sample_gives_no_nan(name):
    """The seed's data has no HORZ_4 nor VERT_4: its FOUR head learns nothing, and must not spoil the others."""
    loss = make_loss(name, np.zeros(2, int))(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))
    assert torch.isfinite(loss * torch.zeros(5)).all()


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="hinge"):
        make_loss("hinge", COUNTS)
