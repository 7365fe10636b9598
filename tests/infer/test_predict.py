"""Predict on frames: the blocks that are cut out of them, in order, as if they had been given as a .npy."""

import numpy as np
import pytest
from PIL import Image

from data.cutting import cut_blocks
from description import BLOCKS, BLOCKS_IN_CONTEXT
from encoder.partition_map import read_partition_map
from infer.sessions.torch_session import reference_prediction
from tests.helpers import SAMPLE
from train.checkpoint import open_run

WIDTH, HEIGHT, FRAMES = 72, 40, 3  # neither is a multiple of 16: 3 x 5 nodes


@pytest.fixture(scope="module")
def luma():
    """Three crops of a real picture, uint8 [3, 40, 72]."""
    with Image.open(SAMPLE / "luma" / "krank_level-06.png") as image:
        whole = np.asarray(image)
    return np.stack([whole[50 * i : 50 * i + HEIGHT, 30 * i : 30 * i + WIDTH] for i in range(FRAMES)])


def y4m(luma, bit_depth=8):
    dtype, tag = (np.uint8, "420jpeg") if bit_depth == 8 else ("<u2", f"420p{bit_depth}")
    chroma = np.full((2, HEIGHT // 2, WIDTH // 2), 1 << (bit_depth - 1), dtype).tobytes()
    frames = b"".join(b"FRAME\n" + frame.astype(dtype).tobytes() + chroma for frame in luma)
    return f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F25:1 Ip C{tag}\n".encode() + frames


@pytest.fixture
def write(tmp_path, luma):
    """Write the frames as a file of that suffix; returns its path and the options that it needs."""

    def as_suffix(suffix, bit_depth=8):
        path = tmp_path / f"clip{suffix}"
        frames = luma.astype(np.uint16) << (bit_depth - 8)
        if suffix == ".y4m":
            path.write_bytes(y4m(frames, bit_depth))
            return (path,)
        if suffix == ".png":
            Image.fromarray(luma[0]).save(path)
            return (path,)
        dtype = np.uint8 if bit_depth == 8 else "<u2"
        path.write_bytes(frames.astype(dtype).tobytes())
        return path, "--size", f"{WIDTH}x{HEIGHT}", "--chroma", "mono", "--bit-depth", bit_depth

    return as_suffix


@pytest.mark.parametrize(
    ("suffix", "bit_depth", "frames"),
    [(".y4m", 8, 3), (".y4m", 10, 3), (".yuv", 8, 3), (".yuv", 10, 3), (".raw", 12, 3), (".png", 8, 1)],
)
def test_frames_are_predicted_as_their_blocks(cli, write, luma, tmp_path, bundle_dir, suffix, bit_depth, frames):
    words = write(suffix, bit_depth)
    ended = cli("predict", *words, "--bundle", bundle_dir, "--qindex", 90, "--check-parity", "--json")
    assert ended.code == 0 and not ended.complaints
    assert f"read {words[0]}: {frames} frame(s) of 72x40" in ended.out and "3 x 5 blocks" in ended.out
    assert ended.json["blocks"] == 15 * frames == ended.json["parity"]["count"]
    deep = luma[:frames].astype(np.uint8 if bit_depth == 8 else np.uint16) << (bit_depth - 8)
    np.save(tmp_path / "blocks.npy", np.concatenate([cut_blocks(frame, BLOCKS.input) for frame in deep]))
    options = ("--bundle", bundle_dir, "--qindex", 90, "--bit-depth", bit_depth)
    assert cli("predict", tmp_path / "blocks.npy", *options).code == 0
    with np.load(tmp_path / "clip.partitions.npz") as ours, np.load(tmp_path / "blocks.partitions.npz") as plain:
        assert set(ours) == {"partition", "probability", "map"}
        np.testing.assert_array_equal(ours["partition"], plain["partition"])
        # Only as near as float32 sums in another order: the number of blocks in a batch may change it.
        np.testing.assert_allclose(ours["probability"], plain["probability"], atol=1e-5)
        np.testing.assert_array_equal(ours["map"], plain["partition"].reshape(frames, 3, 5))


@pytest.mark.parametrize(("suffix", "bit_depth"), [(".y4m", 8), (".yuv", 10), (".png", 8)])
def test_frames_of_a_model_that_sees_a_border_are_predicted_as_their_bordered_blocks(
    cli, write, luma, tmp_path, wide_bundle_dir, suffix, bit_depth
):
    words = write(suffix, bit_depth)
    options = ("--bundle", wide_bundle_dir, "--qindex", 90, "--check-parity", "--json")
    ended = cli("predict", *words, *options)
    assert ended.code == 0 and not ended.complaints
    frames = 1 if suffix == ".png" else 3
    deep = luma[:frames].astype(np.uint8 if bit_depth == 8 else np.uint16) << (bit_depth - 8)
    np.save(tmp_path / "blocks.npy", np.concatenate([cut_blocks(frame, BLOCKS_IN_CONTEXT.input) for frame in deep]))
    assert cli("predict", tmp_path / "blocks.npy", *options, "--bit-depth", bit_depth).code == 0
    with np.load(tmp_path / "clip.partitions.npz") as ours, np.load(tmp_path / "blocks.partitions.npz") as plain:
        np.testing.assert_array_equal(ours["partition"], plain["partition"])
        np.testing.assert_allclose(ours["probability"], plain["probability"], atol=1e-5)
        assert len(ours["partition"]) == 15 * frames


@pytest.mark.parametrize(("runtime", "precision"), [("torch", "fp32"), ("onnxruntime-cpu", "fp32"), ("auto", "fp16")])
def test_bordered_blocks_are_predicted_alike_by_every_runtime(
    cli, wide_blocks, wide_bundle_dir, wide_run_dir, tmp_path, runtime, precision
):
    blocks, qindex, _ = (a[:300] for a in wide_blocks)
    np.save(tmp_path / "blocks.npy", blocks)
    np.save(tmp_path / "q.npy", qindex)
    options = ("--bundle", wide_bundle_dir, "--qindex", tmp_path / "q.npy", "--runtime", runtime)
    assert cli("predict", tmp_path / "blocks.npy", *options, "--precision", precision).code == 0
    expected = reference_prediction(open_run(wide_run_dir).model, blocks, qindex, 8)
    with np.load(tmp_path / "blocks.partitions.npz") as found:
        np.testing.assert_allclose(
            found["probability"], expected.probability, atol=1e-4 if precision == "fp32" else 0.02
        )


def test_a_partition_map_of_a_model_that_sees_a_border(cli, write, tmp_path, wide_bundle_dir):
    (path,) = write(".y4m")
    options = ("--bundle", wide_bundle_dir, "--qindex", 90, "--threshold", 0.05, "--map-probability")
    assert cli("predict", path, *options, "--output", tmp_path / "clip.apm").code == 0
    assert cli("predict", path, *options[:4]).code == 0
    found = read_partition_map(tmp_path / "clip.apm")
    with np.load(tmp_path / "clip.partitions.npz") as plain:
        rounded = np.rint(255 * plain["probability"]).reshape(found.probability.shape)
    assert np.abs(found.probability.astype(int) - rounded).max() <= 1


def test_a_qindex_for_each_block_of_a_clip(cli, write, tmp_path, bundle_dir):
    (path,) = write(".y4m")
    np.save(tmp_path / "q.npy", np.repeat([20, 120, 250], 15))
    assert cli("predict", path, "--bundle", bundle_dir, "--qindex", tmp_path / "q.npy").code == 0
    np.save(tmp_path / "q.npy", np.zeros(46, np.uint8))
    ended = cli("predict", path, "--bundle", bundle_dir, "--qindex", tmp_path / "q.npy")
    assert ended.code == 3 and "45" in "".join(ended.complaints)


RAW = bytes(range(256)) * 24  # a frame of 64x64 in 4:2:0

BAD_FRAMES = {
    "cut in the second frame": (3, ".y4m", lambda c: c[: len(c) // 2], ()),
    "cut in the header": (3, ".y4m", lambda c: c[:12], ()),
    "a broken frame header": (3, ".y4m", lambda c: c.replace(b"FRAME\n", b"FRUME\n"), ()),
    "no frame": (3, ".y4m", lambda c: c[: c.index(b"FRAME")], ()),
    "empty": (3, ".y4m", lambda c: b"", ()),
    "text named as a picture": (3, ".png", lambda c: b"text", ()),
    "text named as a video": (3, ".mp4", lambda c: b"text", ()),
    "raw without a size": (2, ".yuv", lambda c: RAW, ()),
    "raw with a wrong size": (3, ".yuv", lambda c: RAW[:-1], ("--size", "64x64")),
    "raw of no size": (2, ".yuv", lambda c: RAW, ("--size", "large")),
    "raw of a negative size": (2, ".yuv", lambda c: RAW, ("--size", "-64x64")),
    "raw of size 0": (3, ".yuv", lambda c: RAW, ("--size", "0x64")),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frames_are_refused_and_leave_nothing(cli, luma, tmp_path, bundle_dir, name):
    code, suffix, change, options = BAD_FRAMES[name]
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(change(y4m(luma)))
    ended = cli("predict", path, "--bundle", bundle_dir, *options)
    assert ended.code == code, ended
    assert ended.complaints[0].startswith("error: ") and len(ended.complaints) <= 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_samples_above_the_depth_of_frames_are_refused(cli, luma, tmp_path, bundle_dir):
    frames = luma.astype(np.uint16) << 2
    frames[2, 39, 71] = 1024
    (tmp_path / "clip.y4m").write_bytes(y4m(frames, 10))
    ended = cli("predict", tmp_path / "clip.y4m", "--bundle", bundle_dir)
    assert ended.code == 3 and "1024" in ended.complaints[0]
    assert [p.name for p in tmp_path.iterdir()] == ["clip.y4m"]
