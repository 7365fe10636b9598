"""av1part-enc for longer: fuzzed maps and sources under the sanitisers, every preset, Debian's own libaom."""

import subprocess

import numpy as np
import pytest

from encoder.libaom.library import libaom_dir
from encoder.masks import map_of_whole_nodes, oracle_masks, random_masks
from encoder.partition_map import UNDECIDED, MapFormat, write_partition_map
from encoder.program import encode_file
from errors import InputError
from frames.frame import FrameFormat
from partition import Partition
from tests.encoder.restricted import BASIC, PICTURE, SIZE, Encodes, ringing, violations
from tests.encodes import build_encoder, needs_libaom, pan, write_y4m
from tests.helpers import REPO

pytestmark = [needs_libaom, pytest.mark.slow]


def test_1000_fuzzed_maps(tmp_path):
    """Under the address and undefined-behaviour sanitisers: a clean error or a stream that decodes, never a crash."""
    program = build_encoder(tmp_path, "EXTRA=-g -fsanitize=address,undefined -fno-sanitize-recover=all")
    size = FrameFormat(72, 56, 8, "420")
    source = write_y4m(tmp_path / "clip.y4m", size, pan(size, 2, PICTURE))
    encodes = Encodes(program, tmp_path, source, size)
    rng, path, streams = np.random.default_rng(0), tmp_path / "fuzzed.apm", 0
    for i in range(1000):
        write_partition_map(path, map_of_whole_nodes(MapFormat(72, 56, 128), random_masks((2, 3, 4), i)))
        data = bytearray(path.read_bytes())
        if i % 4 == 0:
            for bit in rng.integers(8 * len(data), size=rng.integers(1, 5)):
                data[bit // 8] ^= 1 << bit % 8
        elif i % 4 == 1:
            data = data[: rng.integers(len(data))]
        elif i % 4 == 2:
            data[12:16] = int(rng.integers(16, 200)).to_bytes(4, "little")
        else:  # sound masks of every kind
            data[32:] = write_masks(rng, 2, 4, 5, 3, 4)
        path.write_bytes(data)
        try:
            encodes("a.ivf", "--cpu-used", int(rng.integers(3, 7)), "--partition-map", path)
        except InputError:
            continue
        streams += 1
        assert encodes.decodes("a.ivf")
    assert 250 <= streams < 700


def test_debians_own_libaom(tmp_path):
    """The stock archive of libaom-dev, where `make encoder-debian` has fetched the headers that fit it."""
    found = sorted(libaom_dir().parent.glob("libaom-debian-*/include/config/aom_config.h"))
    if not found:
        pytest.skip("make encoder-debian was not run here")
    archive, include = subprocess.check_output([REPO / "encoder" / "libaom" / "debian_headers.sh"], text=True).split()
    program = build_encoder(tmp_path, f"ARCHIVE={archive}", f"INCLUDE={include}", "HOOK_FLAGS=")
    clip = write_y4m(tmp_path / "clip.y4m", SIZE, pan(SIZE, 2, PICTURE))
    encodes = Encodes(program, tmp_path, clip)
    for speed in range(7):
        encodes("a.ivf", "--cpu-used", speed)
        labels = encodes.labels("a.ivf")
        encodes("b.ivf", "--cpu-used", speed, masks=np.full(labels.shape, UNDECIDED))
        assert (tmp_path / "a.ivf").read_bytes() == (tmp_path / "b.ivf").read_bytes()
        for masks in (oracle_masks(labels), random_masks(labels.shape, 0)):
            encodes("c.ivf", "--cpu-used", speed, masks=masks)
            assert encodes.decodes("c.ivf")
            # Its redo of a superblock forgets the masks, so a few may be off.
            assert violations(encodes.labels("c.ivf"), masks & BASIC if speed >= 5 else masks).mean() < 0.05


def test_fuzzed_sources(tmp_path):
    """Y4M and raw files with flipped bits, cut off, or of other sizes, under the sanitisers: an error or a stream."""
    program = build_encoder(tmp_path, "EXTRA=-g -fsanitize=address,undefined -fno-sanitize-recover=all")
    size, rng, ends = FrameFormat(48, 32, 10, "420"), np.random.default_rng(0), {True: 0, False: 0}
    sound = write_y4m(tmp_path / "sound.y4m", size, pan(size, 2)).read_bytes()
    source = tmp_path / "clip.y4m"
    for i in range(300):
        data = bytearray(sound)
        if i % 2:
            for bit in rng.integers(8 * 60, size=rng.integers(1, 4)):  # the header and the first FRAME
                data[bit // 8] ^= 1 << bit % 8
        else:
            data = data[: rng.integers(len(data))]
        source.write_bytes(data)
        raw = ("--size", "48x32", "--bit-depth", 10) if i % 3 == 0 else ()
        try:
            encode_file(source, tmp_path / "a.ivf", ("--cpu-used", 9, "--limit", 1, *raw), program)
            ends[True] += 1
        except InputError:
            ends[False] += 1
    assert min(ends.values()) > 30


def write_masks(rng, frames, rows, cols, whole_rows, whole_cols):
    masks = np.full((frames, rows, cols), UNDECIDED, "<u2")
    masks[:, :whole_rows, :whole_cols] = rng.integers(0, 512, (frames, whole_rows, whole_cols)) * 2 + 1
    return masks.tobytes()


@pytest.mark.parametrize("frame_format", [FrameFormat(408, 264, 8, "420"), FrameFormat(200, 120, 10, "420")])
@pytest.mark.parametrize("speed", range(7))
@pytest.mark.parametrize("cq", [20, 55])
def test_oracles_undecided_and_random_maps_at_every_preset(encoder_program, tmp_path, frame_format, speed, cq):
    source = write_y4m(tmp_path / "clip.y4m", frame_format, pan(frame_format, 1, "skimage_coffee"))
    encodes = Encodes(encoder_program, tmp_path, source, frame_format)
    encodes("a.ivf", "--cpu-used", speed, cq=cq)
    labels = encodes.labels("a.ivf")
    encodes("b.ivf", "--cpu-used", speed, cq=cq, masks=np.full(labels.shape, UNDECIDED))
    assert (tmp_path / "a.ivf").read_bytes() == (tmp_path / "b.ivf").read_bytes()
    for masks in (oracle_masks(labels), random_masks(labels.shape, 0), np.ones_like(labels, np.uint16)):
        encodes("c.ivf", "--cpu-used", speed, cq=cq, masks=masks)
        found = encodes.labels("c.ivf")
        wrong = violations(found, masks & BASIC if speed >= 5 else masks)
        rule = ringing(pan(frame_format, 1, "skimage_coffee")[0].luma >> (frame_format.bit_depth - 8))
        assert not (wrong & (found != Partition.SPLIT)).any()
        assert frame_format.bit_depth > 8 or not (wrong & ~rule).any()
        assert encodes.decodes("c.ivf")
