"""train/experiments/interval.py against the formulas, and against scipy where it is installed."""

import math

import pytest

from train.experiments.interval import NOT_SEPARABLE, T_975, Interval, interval, paired_difference, verdict


def test_an_interval_by_hand():
    """1, 2, 3: mean 2, deviation 1, so half = 4.303 / sqrt(3)."""
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and math.isclose(found.half, 4.303 / math.sqrt(3))
    assert interval([0.5]) == Interval(0.5, math.inf)
    assert interval([2.0] * 5) == Interval(2.0, 0.0)


def test_the_quantiles_are_students():
    stats = pytest.importorskip("scipy.stats")
    assert [round(stats.t.ppf(0.975, d), 3) for d in range(1, len(T_975) + 1)] == list(T_975)


def test_pairing_takes_out_what_a_seed_does_to_all_arms():
    baseline, shifted = [0.1, 0.5, 0.9], [0.11, 0.511, 0.909]
    found = paired_difference(shifted, baseline)
    assert math.isclose(found.mean, 0.01) and found.half < 0.01 < interval(baseline).half
    assert verdict(found) == "gain" and verdict(paired_difference(baseline, shifted)) == "loss"


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        *[(0.02, 0.01, "gain"), (-0.02, 0.01, "loss"), (0.02, 0.02, NOT_SEPARABLE), (-0.02, 0.03, NOT_SEPARABLE)],
        *[(0.0, 0.0, NOT_SEPARABLE), (0.1, math.inf, NOT_SEPARABLE)],
    ],
)
def test_verdicts(mean, half, expected):
    assert verdict(Interval(mean, half)) == expected


@pytest.mark.parametrize("values", [[], [1.0] * 21])
def test_too_few_or_too_many_values_are_refused(values):
    with pytest.raises(ValueError, match="1 to 20"):
        interval(values)


def test_values_of_other_seeds_are_refused():
    with pytest.raises(ValueError, match="argument"):
        paired_difference([1.0, 2.0], [1.0])
