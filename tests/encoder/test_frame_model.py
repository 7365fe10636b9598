"""av1part-enc with a model in the process: the stream of a partition map of the same model, and its errors."""

from __future__ import annotations

import subprocess

import pytest

import export.c.write
from bundle import open_bundle
from encoder.program import encode_file
from errors import InputError, UsageError
from frames.frame import FrameFormat
from infer.sessions.torch_session import open_weights
from tests.encodes import needs_libaom, pan, write_y4m
from tests.helpers import REPO

pytestmark = [needs_libaom, pytest.mark.slow]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    subprocess.run(["make", "-s", "-C", REPO / "encoder", f"BUILD={folder}"], check=True)
    return folder / "av1part-enc"


@pytest.fixture(scope="module")
def model(tmp_path_factory, bundle_dir):
    path, bundle = tmp_path_factory.mktemp("c") / "model.av1part", open_bundle(bundle_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.c.write, "CHECKED", 64)
        path.write_bytes(export.c.write.make_blob(open_weights(bundle)[0].eval(), "fp32", {}, "ab" * 32, print))
    return path


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_stream_is_that_of_a_partition_map(program, model, bundle_dir, cli, tmp_path, bit_depth, threads):
    size = FrameFormat(136, 104, bit_depth, "420")
    clip = write_y4m(tmp_path / "clip.y4m", size, pan(size, 3, "skimage_gravel"))
    threshold, options = ("--threshold", 0.06), ("--cq-level", 32, "--cpu-used", 3, "--threads", threads)
    words = ("predict", clip, "--bundle", bundle_dir, "--qindex", 128, "--runtime", "onnxruntime-cpu", *threshold)
    assert cli(*words, "--output", tmp_path / "clip.apm").code == 0
    by_map = encode_file(clip, tmp_path / "a.ivf", (*options, "--partition-map", tmp_path / "clip.apm"), program)
    by_model = encode_file(clip, tmp_path / "b.ivf", (*options, "--model", model, *threshold), program)
    without = encode_file(clip, tmp_path / "c.ivf", options, program)
    streams = [(tmp_path / name).read_bytes() for name in ("a.ivf", "b.ivf", "c.ivf")]
    assert streams[0] == streams[1] != streams[2]
    assert (by_model.nodes, by_model.restricted, by_model.met) == (by_map.nodes, by_map.restricted, by_map.met)
    assert by_model.restricted > 20 and by_model.predict_cpu_s > 0 and without.nodes == 0


def test_errors(program, model, tmp_path):
    size = FrameFormat(64, 48, 8, "420")
    clip = write_y4m(tmp_path / "clip.y4m", size, pan(size, 1))
    (tmp_path / "damaged").write_bytes(model.read_bytes()[:-64])
    for options, error, message in (
        (("--model", tmp_path / "nothing"), InputError, "cannot be read"),
        (("--model", tmp_path / "damaged"), InputError, "no blob of av1part"),
        (("--model", model, "--keep", "0.98"), InputError, "no threshold for this share"),
        (("--model", model, "--threshold", "some"), UsageError, "--threshold does not take 'some'"),
        (("--model", model, "--bundle", "b"), UsageError, "exclude each other"),
        (("--model", model, "--cpu-used", 7), UsageError, "--cpu-used 7"),
    ):
        with pytest.raises(error, match=message):
            encode_file(clip, tmp_path / "a.ivf", options, program)
    assert not (tmp_path / "a.ivf").exists()
