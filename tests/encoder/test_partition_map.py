"""Partition maps from predictions: candidate masks, edges, batches of any size, the command line."""

import io
import json
import subprocess

import numpy as np
import pytest

from encoder.partition_map import UNDECIDED, MapFormat, candidate_masks, read_partition_map
from errors import InputError
from frames.frame import FrameFormat
from infer.map_writer import MapWriter, map_file
from infer.session import Prediction
from partition import Partition
from tests.encodes import pan, write_y4m
from tests.helpers import command, copy_of, rewrite

FORM = MapFormat(40, 37, 128, True)  # 3 x 3 nodes, of which 2 x 2 are whole


def slow_mask(probability, threshold):
    return sum(1 << p for p in Partition if p is Partition.NONE or probability[p] >= threshold)


@pytest.fixture(scope="module")
def probability():
    """Four frames of 3 x 3 nodes, [36, 10]."""
    return np.random.default_rng(0).dirichlet(np.full(10, 0.3), 36).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.2, 1.0])
def test_candidates_are_none_and_the_likely(probability, threshold):
    masks = candidate_masks(probability, threshold)
    assert masks.dtype == np.uint16
    assert masks.tolist() == [slow_mask(p, threshold) for p in probability]


@pytest.mark.parametrize("batch", [1, 4, 9, 10, 36])
def test_frames_come_whole_whatever_the_batches(tmp_path, probability, batch):
    path = tmp_path / "a.apm"
    with map_file(path, FORM, 0.1) as writer:
        buffer = np.empty((batch, 10), np.float32)  # used again for each batch, as sessions do
        for start in range(0, 36, batch):
            part = probability[start : start + batch]
            buffer[: len(part)] = part
            writer.add(Prediction(np.empty(0), buffer[: len(part)], part.argmax(1).astype(np.uint8)))
    found = read_partition_map(path)
    assert found.format == FORM
    expected = candidate_masks(probability, 0.1).reshape(4, 3, 3)
    assert np.array_equal(found.masks[:, :2, :2], expected[:, :2, :2])
    assert (found.masks[:, 2] == UNDECIDED).all() and (found.masks[:, :, 2] == UNDECIDED).all()
    assert np.abs(found.probability / 255 - probability.reshape(4, 3, 3, 10)).max() <= 0.5 / 255 + 1e-6
    decided = found.masks[found.masks != UNDECIDED]
    assert (writer.written, writer.restricted) == (36, len(decided))
    assert writer.candidates == sum(int(m).bit_count() for m in decided)
    assert np.array_equal(writer.counts, [np.bincount(probability.argmax(1), minlength=10)])


@pytest.mark.parametrize("blocks", [0, 8, 10])
def test_a_frame_that_is_not_whole_leaves_no_file(tmp_path, probability, blocks):
    def write():
        with map_file(tmp_path / "a.apm", FORM, 0.1) as writer:
            writer.add(Prediction(np.empty(0), probability[:blocks], np.zeros(blocks, np.uint8)))

    with pytest.raises(InputError, match="a frame has 9"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_frame_is_written_as_soon_as_it_is_there(probability):
    pipe = io.BytesIO()
    writer = MapWriter(pipe, FORM, 0.1, 0)
    for blocks, frames in ((8, 0), (2, 1), (17, 3)):
        writer.add(Prediction(np.empty(0), probability[:blocks], np.zeros(blocks, np.uint8)))
        assert len(pipe.getvalue()) == 32 + frames * FORM.frame_bytes


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    size = FrameFormat(72, 40, 8, "420")
    return write_y4m(tmp_path_factory.mktemp("clip") / "clip.y4m", size, pan(size, 3))


def test_predict_writes_a_map(cli, clip, tmp_path, bundle_dir):
    common = ("predict", clip, "--bundle", bundle_dir, "--qindex", 172)
    mapped = cli(*common, "--threshold", 0.05, "--output", tmp_path / "a.apm", "--map-probability")
    assert mapped.code == 0, mapped.err
    assert cli(*common, "--output", tmp_path / "a.npz").code == 0
    found = read_partition_map(tmp_path / "a.apm")
    assert found.format == MapFormat(72, 40, 172, True)
    with np.load(tmp_path / "a.npz") as archive:
        expected = candidate_masks(archive["probability"], 0.05).reshape(3, 3, 5)
    assert np.array_equal(found.masks[:, :2, :4], expected[:, :2, :4])
    assert len(np.unique(expected)) > 3
    assert f"restricted {np.count_nonzero(found.masks != UNDECIDED)} of 45 nodes" in mapped.out


def test_keep_takes_the_manifests_threshold(cli, clip, tmp_path, bundle_dir):
    bundle = copy_of(bundle_dir, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["metrics"]["keep"] = {"0.98": 0.07, "0.95": 0.2}
    rewrite(bundle / "manifest.json", json.dumps(manifest))
    common = ("predict", clip, "--bundle", bundle, "--output")
    masks = []
    for name, options in {"a": (), "b": ("--threshold", 0.07), "c": ("--keep", "0.95")}.items():
        assert cli(*common, tmp_path / f"{name}.apm", *options).code == 0
        masks.append(read_partition_map(tmp_path / f"{name}.apm").masks)
    assert np.array_equal(masks[0], masks[1])
    assert (masks[2] <= masks[0]).all() and (masks[2] < masks[0]).any()


def test_predict_writes_a_map_to_stdout(clip, tmp_path, bundle_dir):
    words = command("predict", clip, "--bundle", bundle_dir, "--threshold", 0.05, "--output", "-")
    done = subprocess.run(words, capture_output=True, check=True)
    (tmp_path / "a.apm").write_bytes(done.stdout)
    assert read_partition_map(tmp_path / "a.apm").masks.shape == (3, 3, 5)
    assert b"read " in done.stderr
