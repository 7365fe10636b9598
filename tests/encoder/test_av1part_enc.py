"""av1part-enc: aomenc's own streams without a map, valid ones with any, and nodes that keep to their masks."""

import subprocess

import numpy as np
import pytest

from encoder.bitstream import read_temporal_units
from encoder.libaom.library import Libaom
from encoder.masks import map_of_whole_nodes, oracle_masks, random_masks
from encoder.partition_map import UNDECIDED, MapFormat, write_partition_map
from encoder.program import encode_file
from errors import InputError, MissingComponentError, OutputError, UsageError
from frames.frame import FrameFormat
from partition import COVERED, BlockSize, Partition
from tests.encoder.restricted import BASIC, PICTURE, SIZE, Encodes, ringing, violations
from tests.encodes import PROGRAMS, needs_libaom, pan, write_y4m
from tests.helpers import REPO

pytestmark = needs_libaom
SMALLER_THAN_8X8 = [BlockSize.BLOCK_4X4, BlockSize.BLOCK_4X8, BlockSize.BLOCK_8X4]


@pytest.fixture(scope="session")
def program(encoder_program):
    return encoder_program


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two frames, 8 bit."""
    return write_y4m(tmp_path_factory.mktemp("clip") / "clip.y4m", SIZE, pan(SIZE, 2, PICTURE))


@pytest.fixture
def encodes(program, clip, tmp_path):
    return Encodes(program, tmp_path, clip)


def aomenc(source, output, *options):
    words = ["--allintra", "--end-usage=q", "--threads=1", f"--{output.suffix[1:]}", "-q", *options]
    subprocess.run([PROGRAMS / "aomenc", source, *words, "-o", output], check=True, capture_output=True)
    return output.read_bytes()


@pytest.mark.parametrize(
    ("frame_format", "name", "speed"),
    [
        (FrameFormat(72, 56, 8, "420"), "a.ivf", 4),
        (FrameFormat(72, 56, 8, "420"), "a.obu", 9),
        (FrameFormat(71, 57, 10, "420"), "a.ivf", 6),
        (FrameFormat(72, 56, 8, "mono"), "a.ivf", 6),
    ],
)
def test_without_a_map_the_stream_is_aomencs(program, tmp_path, frame_format, name, speed):
    source = write_y4m(tmp_path / "clip.y4m", frame_format, pan(frame_format, 3))
    mono = ["--monochrome"] if frame_format.chroma == "mono" else []
    expected = aomenc(source, tmp_path / f"r{name}", "--cq-level=43", f"--cpu-used={speed}", "--limit=2", *mono)
    ours = encode_file(source, tmp_path / name, ("--cq-level", 43, "--cpu-used", speed, "--limit", 2), program)
    assert (tmp_path / name).read_bytes() == expected
    assert (ours.frames, ours.nodes) == (2, 0)
    assert 25 < ours.psnr_y < 50


def test_raw_frames_are_read_as_the_same_y4m(program, tmp_path):
    size = FrameFormat(48, 32, 10, "420")
    frames = pan(size, 2)
    source = write_y4m(tmp_path / "clip.y4m", size, frames, "YUV4MPEG2 W48 H32 F30:1 C420p10 XCOLORRANGE=LIMITED")
    raw = tmp_path / "clip.yuv"
    raw.write_bytes(b"".join(plane.tobytes() for frame in frames for plane in frame.planes))
    encode_file(source, tmp_path / "a.ivf", ("--cpu-used", 8), program)
    encode_file(raw, tmp_path / "b.ivf", ("--cpu-used", 8, "--size", "48x32", "--bit-depth", 10), program)
    assert (tmp_path / "a.ivf").read_bytes() == (tmp_path / "b.ivf").read_bytes()


@pytest.mark.parametrize("speed", range(7))
def test_an_undecided_map_changes_nothing(program, tmp_path, speed):
    size = FrameFormat(72, 72, 8, "420")
    encodes = Encodes(program, tmp_path, write_y4m(tmp_path / "clip.y4m", size, pan(size, 1, PICTURE)), size)
    encodes("a.ivf", "--cpu-used", speed)
    mapped = encodes("b.ivf", "--cpu-used", speed, masks=np.full((1, 4, 4), UNDECIDED))
    assert (tmp_path / "a.ivf").read_bytes() == (tmp_path / "b.ivf").read_bytes()
    assert (mapped.nodes, mapped.restricted, mapped.met) == (25, 0, 0)


@pytest.mark.parametrize("speed", [1, 4, 5, 6])
def test_oracle_masks_are_kept_to(encodes, speed):
    normal = encodes("a.ivf", "--cpu-used", speed)
    labels = encodes.labels("a.ivf")
    masks = oracle_masks(labels)
    restricted = encodes("b.ivf", "--cpu-used", speed, masks=masks)
    assert restricted.restricted == labels.size
    assert restricted.met > 0.8 * np.count_nonzero(labels != COVERED)
    found = encodes.labels("b.ivf")
    wrong = violations(found, masks)
    rule = np.stack([ringing(frame.luma) for frame in pan(SIZE, 2, PICTURE)])
    assert not (wrong & ~((found == Partition.SPLIT) & rule)).any()
    assert encodes.decodes("b.ivf")
    # Not a map that chokes the encoder: nearly the same picture in nearly the same bytes.
    assert abs(restricted.psnr_y - normal.psnr_y) < 0.3
    assert abs(restricted.bytes / normal.bytes - 1) < 0.03


@pytest.mark.parametrize("speed", [2, 4, 6])
def test_any_masks_are_kept_to_and_decode(encodes, speed):
    rng = np.random.default_rng(speed)
    masks = np.concatenate([random_masks((1, 6, 8), 0), rng.integers(0, 512, (1, 6, 8)).astype(np.uint16) * 2 + 1])
    encodes("a.ivf", "--cpu-used", speed, masks=masks, cq=20)
    found = encodes.labels("a.ivf")
    allowed = masks & BASIC if speed >= 5 else masks
    wrong = violations(found, np.where(masks == UNDECIDED, masks, allowed))
    assert not (wrong & (found != Partition.SPLIT)).any() and wrong.mean() < 0.05
    assert len(np.unique(found)) >= (4 if speed >= 5 else 9)
    assert encodes.decodes("a.ivf")


def test_one_restricted_node_changes_as_asked(encodes):
    encodes("a.ivf", "--cpu-used", 4, cq=20)
    before = encodes.labels("a.ivf")
    changed = 0
    for wanted in (Partition.HORZ, Partition.VERT_4, Partition.SPLIT):
        frame, row, col = np.argwhere(before == wanted)[0]
        for mask in (1, 1 | 1 << Partition.VERT):
            masks = np.full(before.shape, UNDECIDED)
            masks[frame, row, col] = mask
            report = encodes("b.ivf", "--cpu-used", 4, masks=masks, cq=20)
            assert (report.restricted, report.met) == (1, 1)
            now = encodes.labels("b.ivf")
            assert mask == UNDECIDED or now[frame, row, col] in (Partition.NONE, Partition.VERT, COVERED)
            assert mask != 1 or now[frame, row, col] in (Partition.NONE, COVERED)
            # Blocks that were coded before the node are as they were.
            assert np.array_equal(now[:frame], before[:frame]) and encodes.decodes("b.ivf")
            changed += now[frame, row, col] in (Partition.NONE, Partition.VERT)
    assert changed >= 4


@pytest.mark.parametrize("speed", [0, 3])
@pytest.mark.parametrize("wanted", [t for t in Partition if t > Partition.SPLIT])
def test_a_type_is_tried_though_what_libaom_judges_it_by_is_not(encodes, speed, wanted):
    """libaom prunes A/B types by what HORZ, VERT and SPLIT gave: of masks without these it knows nothing."""
    masks = np.full((2, 6, 8), 1 | 1 << wanted)
    encodes("a.ivf", "--cpu-used", speed, masks=masks, cq=20)
    assert np.count_nonzero(encodes.labels("a.ivf") == wanted) > 3


@pytest.mark.parametrize("speed", [1, 3, 5])
def test_8x8_nodes_below_a_restricted_node_are_not_split(encodes, speed):
    """Unless --whole-split asks for it, and apart from the rule against ringing, which acts on 8x8 nodes too."""
    labels, smaller = {}, {}
    for name, options in (("a.ivf", ()), ("b.ivf", ("--whole-split",))):
        masks = np.full((2, 6, 8), 1 | 1 << Partition.SPLIT)
        encodes(name, "--cpu-used", speed, *options, masks=masks, cq=10)
        assert encodes.decodes(name)
        labels[name] = encodes.labels(name)
        frames = Libaom().decode(read_temporal_units(encodes.folder / name))
        sizes = np.stack([f.bsize[: 4 * 6, : 4 * 8].reshape(6, 4, 8, 4).swapaxes(1, 2) for f in frames])
        smaller[name] = (np.isin(sizes, SMALLER_THAN_8X8)).any((3, 4))
    rule = np.stack([ringing(frame.luma) for frame in pan(SIZE, 2, PICTURE)])
    assert np.count_nonzero(labels["a.ivf"] == Partition.SPLIT) > 10
    assert not (smaller["a.ivf"] & ~rule).any()
    assert np.count_nonzero(smaller["b.ivf"] & ~rule) > 10


@pytest.mark.parametrize("tiles", [(0, 0), (1, 1)])
def test_threads_and_tiles(program, tmp_path, tiles):
    size = FrameFormat(264, 136, 8, "420")
    source = write_y4m(tmp_path / "clip.y4m", size, pan(size, 1, PICTURE))
    encodes = Encodes(program, tmp_path, source, size)
    masks = random_masks((1, 8, 16), 1)
    options = "--cpu-used", 5, "--tile-columns", tiles[0], "--tile-rows", tiles[1]
    for threads in (1, 2, 4):
        encodes(f"{threads}.ivf", *options, "--threads", threads, masks=masks)
        found = encodes.labels(f"{threads}.ivf")
        wrong = violations(found, masks & BASIC)
        assert not (wrong & (found != Partition.SPLIT)).any() and wrong.mean() < 0.05
        assert encodes.decodes(f"{threads}.ivf")
    # One thread codes otherwise than several, without a map too.
    assert (tmp_path / "2.ivf").read_bytes() == (tmp_path / "4.ivf").read_bytes()


def test_a_bundle_predicts_meanwhile(encodes, cli, clip, bundle_dir, monkeypatch):
    """Through a process of its own, frame by frame: the stream of the same map from a file."""
    monkeypatch.setenv("AV1PART_CLI", str(REPO / "cli.py"))
    path = encodes.folder / "a.apm"
    predict = ("predict", clip, "--bundle", bundle_dir, "--qindex", 128, "--threshold", 0.05, "--output", path)
    assert cli(*predict).code == 0
    from_file = encodes("a.ivf", "--cpu-used", 6, "--partition-map", path)
    piped = encodes("b.ivf", "--cpu-used", 6, "--bundle", bundle_dir, "--threshold", 0.05)
    assert (encodes.folder / "a.ivf").read_bytes() == (encodes.folder / "b.ivf").read_bytes()
    assert piped.restricted == from_file.restricted > 40
    assert piped.predict_cpu_s > 0 == from_file.predict_cpu_s
    assert encodes("c.ivf", "--cpu-used", 6, "--bundle", bundle_dir, "--threshold", 0.05, "--limit", 1).frames == 1
    with pytest.raises(MissingComponentError, match="gave no map"):
        encodes("d.ivf", "--bundle", encodes.folder / "nothing")


# --- what is refused ----------------------------------------------------------------------------------------------


def y4m(header, body=b"FRAME\n" + bytes(48 * 32 * 3 // 2)):
    return lambda path: path.write_bytes(header + b"\n" + body)


HEADER = b"YUV4MPEG2 W48 H32 F25:1 Ip C420"
BAD_SOURCES = {
    "empty": lambda path: path.write_bytes(b""),
    "no y4m": lambda path: path.write_bytes(b"RIFF" * 20),
    "no frame": y4m(HEADER, b""),
    "cut off": y4m(HEADER, b"FRAME\n" + bytes(99)),
    "no FRAME": y4m(HEADER, b"FROME\n" + bytes(2304)),
    "endless header": lambda path: path.write_bytes(HEADER + b" X" * 5000),
    "a frame larger than the file": y4m(b"YUV4MPEG2 W65536 H65536 F25:1 Cmono"),
    "deep samples in 10 bit": y4m(b"YUV4MPEG2 W48 H32 F25:1 Ip C420p10", b"FRAME\n" + b"\xff" * 4608),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_sources(program, tmp_path, case):
    source = tmp_path / "clip.y4m"
    BAD_SOURCES[case](source)
    with pytest.raises(InputError, match=r"clip\.y4m"):
        encode_file(source, tmp_path / "a.ivf", ("--cpu-used", 9), program)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.y4m"]


BAD_OPTIONS = {
    "cq": ("--cq-level", 64),
    "speed": ("--cpu-used", 10),
    "map at a speed without search": ("--cpu-used", 7, "--partition-map", "a.apm"),
    "two sources of masks": ("--partition-map", "a.apm", "--bundle", "b"),
    "keep without a bundle": ("--keep", "0.98"),
    "whole split without a map": ("--whole-split",),
    "raw details of a y4m": ("--bit-depth", 10),
    "unknown": ("--fast",),
    "no threads": ("--threads", 0),
    "half a size": ("--size", "48"),
    "size of 5,000 digits": ("--size", f"{'9' * 5000}x16"),
    "small size": ("--size", "48x15"),
    "size that wraps": ("--size", f"{(1 << 32) + 48}x32"),
    "signed size": ("--size", "+48x32"),
    "rate of 5,000 digits": ("--size", "48x32", "--fps", f"{'9' * 5000}/1"),
    "rate 0": ("--size", "48x32", "--fps", "0/1"),
    "limit of 5,000 digits": ("--limit", "9" * 5000),
    "cq with a space": ("--cq-level", " 3"),
    "empty cq": ("--cq-level", ""),
    "keep that is no number": ("--bundle", "b", "--keep", "nan"),
    "threshold above 1": ("--model", "m", "--threshold", "1.01"),
    "threshold of nothing": ("--model", "m", "--threshold", ""),
    "no value": ("--threads",),
    "value of a flag": ("--json=1",),
    "empty output": ("--output", ""),
    "empty reconstruction": ("--recon", ""),
    "reconstruction to stdout": ("--recon", "-"),
    "two inputs": ("b.y4m",),
    "output to stdout": ("--output", "-"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(program, clip, tmp_path, case):
    with pytest.raises(UsageError) as caught:
        encode_file(clip, tmp_path / "a.ivf", BAD_OPTIONS[case], program)
    assert len(caught.value.message) < 150
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "frames", "message"),
    [
        (MapFormat(136, 104, 124), 2, "it is for 136x104 at qindex 124, and this is 136x104 at 128"),
        (MapFormat(136, 105, 128), 2, "it is for 136x105 at qindex 128, and this is 136x104 at 128"),
        (MapFormat(136, 104, 128), 1, "it has fewer frames than the input"),
        (MapFormat(136, 104, 128), 3, "it has more frames than the input"),
    ],
)
def test_foreign_maps(program, clip, tmp_path, form, frames, message):
    path = tmp_path / "a.apm"
    write_partition_map(path, map_of_whole_nodes(form, np.ones((frames, 6, 8), int)))
    with pytest.raises(InputError, match=message):
        encode_file(clip, tmp_path / "a.ivf", ("--cpu-used", 6, "--partition-map", path), program)
    assert [p.name for p in tmp_path.iterdir()] == ["a.apm"]


def test_unwritable_output(program, clip, tmp_path):
    for name in ("no/a.ivf", "a.ivf/"):
        with pytest.raises(OutputError, match="cannot be written"):
            encode_file(clip, tmp_path / "a.ivf", ("--output", f"{tmp_path}/{name}"), program)
    with pytest.raises(OutputError, match="it is a folder"):
        encode_file(clip, tmp_path, (), program)
    assert not list(tmp_path.iterdir())


def test_missing_program(clip, tmp_path):
    with pytest.raises(MissingComponentError, match="is not there"):
        encode_file(clip, tmp_path / "a.ivf", (), tmp_path / "nothing")
