"""How far labels are chance: counts against loops, both bounds around an entropy that is known, a small measurement."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import benchmarks.label_noise as noise
from errors import InputError
from tests.encodes import needs_libaom
from tests.helpers import REPO


@pytest.fixture
def drawn():
    """Labels [E, N] of blocks that each have two types, their probabilities [N, 10], and the mean entropy of those."""
    rng = np.random.default_rng(0)
    share = rng.uniform(0.5, 0.95, 4000)
    probability = np.zeros((4000, 10))
    probability[:, 0], probability[:, 3] = share, 1 - share
    labels = np.where(rng.random((8, 4000)) < share, 0, 3)
    return labels, probability, float(-(share * np.log(share) + (1 - share) * np.log(1 - share)).mean())


def test_noise_nobody_sees():
    luma = np.random.default_rng(0).integers(0, 256, (160, 96)).astype(np.uint8)
    first, again, other = noise.dithered(luma, 0), noise.dithered(luma, 0), noise.dithered(luma, 1)
    assert np.array_equal(first, again) and not np.array_equal(first, other) and first.dtype == np.uint8
    change = first.astype(int) - luma
    assert set(np.unique(change)) == {-1, 0, 1} and abs((change != 0).mean() - 1 / 8) < 0.01
    assert noise.dithered(np.full((64, 64), 255, np.uint8), 0).min() == 254


def test_counts_and_agreement_are_those_of_loops(drawn):
    labels = drawn[0][:, :50]
    counts = noise.counts_of(labels)
    assert all(counts[i, k] == sum(row[i] == k for row in labels) for i in range(50) for k in range(10))
    pairs = [(a, b) for a in range(8) for b in range(8) if a != b]
    expected = np.mean([labels[a, i] == labels[b, i] for a, b in pairs for i in range(50)])
    assert noise.agreement(counts) == pytest.approx(expected)


def test_the_bounds_enclose_the_entropy(drawn):
    labels, probability, entropy = drawn
    found = noise.figures(labels, probability)
    assert entropy - 0.1 < found["entropy"] < entropy
    # Of a model that knows the shares no other encode could improve the answer.
    assert found["model"]["log_loss"] == pytest.approx(entropy, abs=0.01)
    assert found["model"]["log_loss"] < found["others"]["log_loss"] < entropy + 0.1
    blind = noise.figures(labels, np.full((4000, 10), 0.1))
    assert blind["model"]["log_loss"] == pytest.approx(math.log(10))
    assert entropy < blind["others"]["log_loss"] < 1


def test_others_do_not_know_the_encode_itself(drawn):
    labels, probability = drawn[0][:3, :20], drawn[1][:20]
    found = noise.others_say(labels, probability, 2.0)
    assert np.allclose(found.sum(2), 1)
    for e in range(3):
        for i in range(20):
            others = [labels[o, i] for o in range(3) if o != e]
            expected = [(others.count(k) + 2 * probability[i, k]) / 4 for k in range(10)]
            assert found[e, i] == pytest.approx(expected)


@needs_libaom
def test_a_measurement(tiny_dataset, tmp_path, capsys):
    path = tmp_path / "noise.json"
    words = ["--dataset-dir", str(tiny_dataset), "--bundle", str(REPO / "models/tiny"), "--output", str(path)]
    noise.main([*words, "--encodes", "2", "--jobs", "1"])
    result = json.loads(path.read_text())
    assert result["encodes"] == 2 and result["all"]["pairs"] > 0
    assert 0 < result["all"]["agreement"] <= 1 and result["all"]["model_moved"] < 0.2
    assert sum(part["pairs"] for part in result["by_qindex"].values()) == result["all"]["pairs"]
    assert "two encodes agree" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "bundle", "message"),
    [("nothing", "models/tiny", "index.csv"), ("", "models/accurate-context", "with a border")],
)
def test_bad_input_is_refused_before_anything_is_built(dataset, bundle, message, tiny_dataset, monkeypatch):
    monkeypatch.setattr(noise, "ensure_libaom", lambda _: pytest.fail("it would build libaom"))
    with pytest.raises(InputError, match=message):
        noise.main(["--dataset-dir", str(tiny_dataset / dataset), "--bundle", str(REPO / bundle)])


def test_one_encode_differs_from_nothing(tiny_dataset, capsys):
    with pytest.raises(SystemExit) as stop:
        noise.main(["--dataset-dir", str(tiny_dataset), "--encodes", "1"])
    assert stop.value.code == 2 and "2 at least" in capsys.readouterr().err
