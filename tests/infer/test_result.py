"""infer/result.py for blocks of several nodes, beside a slow twin (blocks of one node: test_stream.py)."""

import os

import numpy as np
import pytest

from errors import InputError
from infer.result import partial_path
from infer.stream import predict_stream
from tests.infer.stand_in import TOY, ArraySource, ToySession, toy_prediction


def numbered(count):
    """Blocks of 32x32 that ToySession tells apart."""
    blocks = np.zeros((count, 32, 32), np.uint8)
    blocks[:, 0, 0], blocks[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return blocks


def predict_toy(source, output):
    return predict_stream(source, 3, ToySession(), output, lambda *_: None, TOY)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("count", [1, 37])
def test_blocks_of_several_nodes_have_an_array_for_each_level(tmp_path, known, count):
    summary = predict_toy(ArraySource(numbered(count), known=known), tmp_path / "out.npz")
    said = toy_prediction(numbered(count))
    with np.load(tmp_path / "out.npz") as result:
        assert set(result) == {"partition_32", "partition_8", "probability_32", "probability_8"}
        shapes = {name: result[name].shape for name in result}
        assert shapes["partition_32"] == (count, 1) and shapes["probability_32"] == (count, 1, 10)
        assert shapes["partition_8"] == (count, 16) and shapes["probability_8"] == (count, 16, 4)
        for i in range(count):
            np.testing.assert_array_equal(result["probability_32"][i, 0], said.probability[i, :10])
            for node in range(16):
                start = 10 + 4 * node
                np.testing.assert_array_equal(result["probability_8"][i, node], said.probability[i, start : start + 4])
                assert result["partition_8"][i, node] == said.partition[i, 1 + node]
            assert result["partition_32"][i, 0] == said.partition[i, 0]
        for row, name in enumerate(("partition_32", "partition_8")):
            np.testing.assert_array_equal(summary.counts[row], np.bincount(result[name].ravel(), minlength=10))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("batch", [1, 4, 5, 7, 1000])
def test_frames_of_several_levels_lie_in_their_own_grids_of_nodes(tmp_path, known, batch, monkeypatch):
    frames, rows, cols = 3, 2, 5
    blocks = numbered(frames * rows * cols)
    monkeypatch.setattr("infer.stream.BATCH", batch)
    predict_toy(ArraySource(blocks, (rows, cols), known), tmp_path / "out.npz")
    said = toy_prediction(blocks)
    with np.load(tmp_path / "out.npz") as result:
        assert set(result) == {"partition_32", "partition_8", "probability_32", "probability_8"}
        assert result["probability_32"].shape == (frames, rows, cols, 10)
        assert result["probability_8"].shape == (frames, 4 * rows, 4 * cols, 4)
        assert result["partition_8"].shape == (frames, 4 * rows, 4 * cols)
        for frame, row, col in np.ndindex(frames, 4 * rows, 4 * cols):
            block = (frame * rows + row // 4) * cols + col // 4
            node = 4 * (row % 4) + col % 4
            assert result["partition_8"][frame, row, col] == said.partition[block, 1 + node]
            expected = said.probability[block, 10 + 4 * node : 14 + 4 * node]
            np.testing.assert_array_equal(result["probability_8"][frame, row, col], expected)
        expected = said.probability[:, :10].reshape(frames, rows, cols, 10)
        np.testing.assert_array_equal(result["probability_32"], expected)
        np.testing.assert_array_equal(result["partition_32"], said.partition[:, 0].reshape(frames, rows, cols))


@pytest.mark.parametrize("known", [True, False])
def test_whole_frames_of_several_levels_are_saved_when_the_rest_fails(tmp_path, known, monkeypatch):
    blocks = numbered(7 * 6)
    monkeypatch.setattr("infer.stream.BATCH", 10)
    predict_toy(ArraySource(blocks[: 4 * 6], (2, 3)), tmp_path / "alone.npz")
    source = ArraySource(blocks, (2, 3), known, cut=29)
    if not known:
        source.chunks = broken_after(source.chunks)
    with pytest.raises(InputError):
        predict_toy(source, tmp_path / "out.npz")
    assert (tmp_path / "out.partial.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"alone.npz", "out.partial.npz"}


def broken_after(chunks):
    def broken(*sizes):
        yield from chunks(*sizes)
        raise InputError("the file ends here")

    return broken


def test_a_name_that_leaves_no_room_for_partial_is_cut(tmp_path):
    path = tmp_path / ("\u00e4" * 120 + ".npz")
    assert partial_path(path).name.endswith(".partial.npz")
    assert 240 < len(os.fsencode(partial_path(path).name)) <= 255
