"""data/label.py and encoder/bitstream.py: streams that exist already, beside their source."""

import subprocess

import numpy as np
import pytest

from data.dataset import open_dataset
from data.label import LabelConfig, label_streams
from data.scan import ReadOptions
from encoder.bitstream import read_temporal_units
from encoder.libaom.library import Libaom
from errors import InputError, UsageError
from frames.frame import Frame, FrameFormat
from frames.reader import open_frames
from tests.encodes import PROGRAMS, needs_libaom, pan, write_y4m

SIZE = FrameFormat(64, 48, 8, "420")
pytestmark = needs_libaom


def label(*pairs, output, said=None, **options):
    announce = (lambda text: None) if said is None else said.append
    return label_streams(LabelConfig(tuple(pairs), output, **options), lambda *_: None, announce)


def aomenc(source, stream, *options):
    """As a user would call it: two passes, hidden frames, or all-intra with --kf-max-dist=0."""
    command = [PROGRAMS / "aomenc", source, "--cpu-used=5", "--end-usage=q", "--cq-level=30", *options, "-o", stream]
    subprocess.run(command, check=True, capture_output=True)
    return stream


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """clip.y4m of 12 frames, with intra.ivf, inter.ivf and inter.obu of it."""
    folder = tmp_path_factory.mktemp("streams")
    source = write_y4m(folder / "clip.y4m", SIZE, pan(SIZE, 12))
    aomenc(source, folder / "intra.ivf", "--kf-max-dist=0", "--ivf")
    aomenc(source, folder / "inter.ivf", "--lag-in-frames=11", "--ivf")
    aomenc(source, folder / "inter.obu", "--lag-in-frames=11", "--obu")
    return folder


def test_all_intra_stream(streams, tmp_path):
    report = label((streams / "intra.ivf", streams / "clip.y4m"), output=tmp_path, licence="CC0-1.0")
    assert (report.pictures, report.encodes, report.failures) == (12, 0, {})
    opened = open_dataset(tmp_path)
    coded = Libaom().decode(read_temporal_units(streams / "intra.ivf"))
    for picture, frame, expected in zip(opened.pictures, pan(SIZE, 12), coded, strict=True):
        assert np.array_equal(opened.luma(picture), frame.luma)
        qindex, maps = opened.block_size_maps(picture)
        assert qindex.tolist() == [expected.qindex]
        assert np.array_equal(maps[0], expected.bsize)
        with np.load(tmp_path / "labels" / f"{picture.name}.npz") as archive:
            assert str(archive["encoder"]).startswith("stream intra.ivf, SHA-256 ")
    again = label((streams / "intra.ivf", streams / "clip.y4m"), output=tmp_path)
    assert again.reused == 12


def test_inter_frames_only_on_request(streams, tmp_path):
    said = []
    pair = (streams / "inter.ivf", streams / "clip.y4m")
    assert label(pair, output=tmp_path / "intra", said=said).pictures == 1
    assert any(text.startswith("11 frames are inter-coded and left out") for text in said)
    assert label(pair, output=tmp_path / "all", inter=True, read=ReadOptions(every=2)).pictures == 6
    assert [p.name for p in open_dataset(tmp_path / "all").pictures][-1] == "clip_f0010"
    both = label((streams / "inter.obu", streams / "clip.y4m"), output=tmp_path / "obu", inter=True)
    assert both.pictures == 12


def remux(path, target):
    av = pytest.importorskip("av")
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_mux_stream("av1", rate=25, width=64, height=48)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4"])
def test_containers(streams, tmp_path, suffix):
    remux(streams / "intra.ivf", tmp_path / f"clip.{suffix}")
    label((tmp_path / f"clip.{suffix}", streams / "clip.y4m"), output=tmp_path / "a")
    label((streams / "intra.ivf", streams / "clip.y4m"), output=tmp_path / "b")
    for picture in open_dataset(tmp_path / "a").pictures:
        a, b = (open_dataset(tmp_path / side).block_size_maps(picture) for side in "ab")
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])


def test_streams_of_another_encoder(streams, tmp_path):
    av = pytest.importorskip("av")
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no SVT-AV1")
    frames = list(open_frames(streams / "clip.y4m"))
    with av.open(str(tmp_path / "svt.mkv"), "w") as container:
        stream = container.add_stream(
            "libsvtav1", rate=25, options={"preset": "8", "crf": "40", "svtav1-params": "lp=1"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            rows = np.concatenate([p.reshape(-1) for p in frame.planes]).reshape(-1, 64)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rows, "yuv420p")))
        container.mux(stream.encode())
    report = label((tmp_path / "svt.mkv", streams / "clip.y4m"), output=tmp_path / "out", inter=True)
    assert report.pictures == 12


def mismatched(streams, folder):
    """Name to (stream, source, what the message says)."""
    frames, intra = pan(SIZE, 12), streams / "intra.ivf"
    other = FrameFormat(64, 56, 8, "420")
    deep = FrameFormat(64, 48, 10, "420")
    noise = [
        Frame(tuple(np.random.default_rng(i).integers(0, 256, p.shape).astype(np.uint8) for p in frames[0].planes))
        for i in range(12)
    ]
    (folder / "cut.ivf").write_bytes(intra.read_bytes()[:-9])
    (folder / "no.ivf").write_bytes(b"DKIF" + bytes(40))
    (folder / "no.obu").write_bytes(b"\x80\x80\x80")
    (folder / "no.mkv").write_bytes(b"no")
    damaged = bytearray(intra.read_bytes())
    damaged[44 + 20 :] = bytes(len(damaged) - 64)
    (folder / "zeros.ivf").write_bytes(bytes(damaged[: 32 + 12]) + bytes(damaged[44:]))
    return {
        "fewer frames": (
            intra,
            write_y4m(folder / "a.y4m", SIZE, frames[:9]),
            "has more frames than the other file, which has 9",
        ),
        "more frames": (intra, write_y4m(folder / "b.y4m", SIZE, [*frames, frames[0]]), "which has 12"),
        "another size": (intra, write_y4m(folder / "c.y4m", other, pan(other, 12)), "is 64x48 at 8 bit"),
        "another depth": (intra, write_y4m(folder / "d.y4m", deep, pan(deep, 12)), "is 64x48 at 8 bit"),
        "another picture": (intra, write_y4m(folder / "e.y4m", SIZE, noise), "does not look like that frame"),
        "truncated": (folder / "cut.ivf", streams / "clip.y4m", "is truncated: 11 whole frames"),
        "no ivf": (folder / "no.ivf", streams / "clip.y4m", "is no IVF file of AV1"),
        "no obu": (folder / "no.obu", streams / "clip.y4m", "no AV1 OBU at byte 0"),
        "no container": (folder / "no.mkv", streams / "clip.y4m", "PyAV can read"),
        "damaged": (folder / "zeros.ivf", streams / "clip.y4m", "zeros.ivf"),
        "missing": (folder / "none.ivf", streams / "clip.y4m", "none.ivf"),
        "source missing": (intra, folder / "none.y4m", "no such file"),
    }


@pytest.mark.parametrize(
    "case",
    ["fewer frames", "more frames", "another size", "another depth", "another picture", "truncated", "no ivf", "no obu",
     "no container", "damaged", "missing", "source missing"],
)  # fmt: skip
def test_streams_that_do_not_fit(streams, tmp_path, case):
    stream, source, expected = mismatched(streams, tmp_path)[case]
    with pytest.raises(InputError, match="none of 1 streams can be used; the first: .*" + expected):
        label((stream, source), output=tmp_path / "out")
    assert not (tmp_path / "out" / "index.csv").exists()


def test_video_that_is_not_av1(streams, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="holds ffv1, not AV1"):
        label((tmp_path / "a.mkv", streams / "clip.y4m"), output=tmp_path / "out")


def test_one_bad_pair_does_not_stop_the_others(streams, tmp_path):
    (tmp_path / "bad.ivf").write_bytes(b"no")
    other = write_y4m(tmp_path / "other.y4m", SIZE, pan(SIZE, 12))
    report = label(
        (tmp_path / "bad.ivf", other), (streams / "intra.ivf", streams / "clip.y4m"), output=tmp_path / "out"
    )
    assert (report.pictures, list(report.failures)) == (12, [str(tmp_path / "bad.ivf")])


def test_other_datasets_are_left_alone(streams, tmp_path):
    label((streams / "intra.ivf", streams / "clip.y4m"), output=tmp_path / "out")
    other = write_y4m(tmp_path / "other.y4m", SIZE, pan(SIZE, 12))
    with pytest.raises(UsageError, match="holds a dataset with other pictures"):
        label((streams / "intra.ivf", other), output=tmp_path / "out")
    with pytest.raises(UsageError, match="with other options"):
        label((streams / "inter.ivf", streams / "clip.y4m"), output=tmp_path / "out", inter=True)


def test_impossible_configurations(tmp_path):
    with pytest.raises(UsageError, match="at least one"):
        LabelConfig((), tmp_path)
    with pytest.raises(UsageError, match="two sources are called 'b'"):
        LabelConfig(((tmp_path / "a.ivf", tmp_path / "b.y4m"), (tmp_path / "c.ivf", tmp_path / "b.yuv")), tmp_path)
