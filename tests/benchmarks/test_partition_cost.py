"""The cost of partition types: units on made-up seconds; one real measurement of a small picture."""

import functools
import json
import math

import pytest

pytest.importorskip("bjontegaard")

import benchmarks.partition_cost as cost
from errors import InputError
from partition import PARTITION_NAMES
from tests.encodes import needs_libaom
from tests.helpers import SHARED


def test_costs_are_in_units_of_horz_and_vert():
    seconds = {"NONE": 2.0, "HORZ": 2.4, "VERT": 2.6, "SPLIT": 3.5}
    expected = {"HORZ": 0.8, "VERT": 1.2, "SPLIT": 3.0}
    assert cost.relative_costs(seconds) == pytest.approx(expected)


@needs_libaom
def test_a_measurement(tmp_path, monkeypatch, encoder_program, capsys):
    monkeypatch.setattr(cost, "encode_file", functools.partial(cost.encode_file, program=encoder_program))
    monkeypatch.setattr(cost, "REPEATS", 1)
    if not SHARED.is_dir():
        pytest.skip("the seed data is not beside the checkout")
    output = tmp_path / "cost.json"
    cost.main(["--shared", str(SHARED), "--cpu-used", "4", "--pictures", "skimage_chelsea", "--output", str(output)])
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    assert list(row["seconds"]) == [*PARTITION_NAMES, cost.WHOLE]
    assert all(math.isfinite(value) for value in row["relative"].values())
    assert result["mean_relative"] == row["relative"]


def test_pictures_that_are_not_there(tmp_path, capsys):
    with pytest.raises(InputError, match="lacks a picture"):
        cost.main(["--shared", str(tmp_path), "--output", str(tmp_path / "a.json")])
    with pytest.raises(SystemExit):
        cost.main([])
    assert "--shared" in capsys.readouterr().err
