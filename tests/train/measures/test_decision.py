"""train/measures/decision.py: the rule for macro-F1 against the plain argmax and against trying rules one by one."""

import itertools

import numpy as np
import pytest

from train.measures.decision import Decision, fit_decision, recorded_decision
from train.measures.metrics import confusion, macro_f1


def pairs(count=20_000, seed=0, types=10):
    """Probabilities in which a few types dominate, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    prior = np.zeros(10)
    prior[:types] = 0.5 ** np.arange(types)
    probability = rng.dirichlet(4 * prior / prior.sum() + 1e-6, count)
    probability /= probability.sum(1, keepdims=True)
    label = (probability.cumsum(1) > rng.random(count)[:, None]).argmax(1)
    return probability, label.astype(np.uint8)


def f1(answers, label):
    return macro_f1(confusion(label, answers, 10))


def test_the_rule_gains_on_pairs_that_it_was_not_fitted_on():
    rule = fit_decision(*pairs(seed=0), "calib")
    probability, label = pairs(seed=1)
    assert f1(rule.answer(probability), label) > f1(probability.argmax(1), label) + 0.02
    assert rule.fitted_on == "calib" and max(rule.gain) == 1.0


def test_the_rule_is_as_good_as_the_best_of_many_thresholds():
    """Two types: every rule is a threshold on one probability, and all can be tried."""
    rng = np.random.default_rng(2)
    p = rng.beta(0.5, 3, 4000)
    label = (rng.random(4000) < p).astype(np.uint8)
    probability = np.zeros((4000, 10))
    probability[:, 0], probability[:, 1] = 1 - p, p
    best = max(f1((p > t).astype(np.int64), label) for t in np.linspace(0, 1, 401))
    found = f1(fit_decision(probability, label, "x").answer(probability), label)
    assert best - 0.002 < found <= best + 0.002


def test_a_rule_that_gains_nothing_is_the_argmax():
    probability = np.eye(10)[np.arange(500) % 10] * 0.9 + 0.01
    label = (np.arange(500) % 10).astype(np.uint8)
    rule = fit_decision(probability, label, "x")
    assert np.array_equal(rule.answer(probability), label)
    assert rule.gain == (1.0,) * 10 and rule.cost == (0.0,) * 10


@pytest.mark.parametrize("types", [1, 2, 9])
def test_types_that_never_occur_are_never_answered(types):
    probability, label = pairs(2000, types=types)
    rule = fit_decision(probability, label, "x")
    assert np.isfinite([*rule.gain, *rule.cost]).all()
    assert f1(rule.answer(probability), label) >= f1(probability.argmax(1), label)


def test_it_comes_back_from_json():
    rule = fit_decision(*pairs(500), "calib")
    assert recorded_decision({"decision": rule.to_json()}) == rule
    assert recorded_decision({}) is None


def test_answer_is_gain_times_probability_minus_cost():
    rule = Decision(tuple(np.linspace(0.1, 1, 10)), tuple(np.linspace(0, 0.5, 10)), "x")
    probability, _ = pairs(50)
    for row, answer in itertools.islice(zip(probability, rule.answer(probability), strict=True), 50):
        scores = [rule.gain[c] * row[c] - rule.cost[c] for c in range(10)]
        assert scores[answer] == max(scores)
