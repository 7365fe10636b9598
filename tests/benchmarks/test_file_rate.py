"""benchmarks/file_rate.py: the file holds what it should, and the figures are of what ran."""

import numpy as np
import pytest

from benchmarks.file_rate import ROUNDS, measure, write_blocks


@pytest.mark.parametrize("count", [1, 5, 12])
def test_blocks_are_repeated_until_there_are_enough(tmp_path, count):
    blocks = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
    write_blocks(tmp_path / "b.npy", blocks, count)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), blocks[np.arange(count) % 5])


def test_both_rates_are_measured(bundle_dir, tmp_path, capsys):
    result = measure(bundle_dir, "onnxruntime-cpu", "fp32", 96, tmp_path)
    assert result["blocks"] == 100 and result["session"]["runtime"] == "onnxruntime-cpu"
    assert len(result["predict_blocks_per_s"]) == len(result["session_blocks_per_s"]) == ROUNDS
    assert 0.01 < result["share"] < 5 and capsys.readouterr().out.count("round") == ROUNDS
