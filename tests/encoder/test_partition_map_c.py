"""encoder/partition_map.c against encoder/partition_map.py: what one writes the other reads, and both refuse alike."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from encoder.partition_map import HEADER, UNDECIDED, MapFormat, PartitionMap, leave_edges, read_partition_map
from encoder.partition_map import write_partition_map as write
from errors import InputError
from infer.sessions.c_library import SOURCE_DIR
from tests.helpers import REPO

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")

END, CANNOT_OPEN, NOT_A_MAP, OTHER_VERSION, BAD_HEADER, BAD_MASK, TRUNCATED, TOO_LONG = 1, 2, 4, 5, 6, 7, 8, 9
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


@pytest.fixture(scope="module")
def read_in_c(tmp_path_factory):
    """Reads maps by the C reader, under the address and undefined-behaviour sanitisers: the numbers of each file."""
    program = tmp_path_factory.mktemp("map") / "map_text"
    sources = [Path(__file__).with_name("map_text.c"), REPO / "encoder" / "partition_map.c"]
    sanitisers = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    places = [f"-I{REPO / 'encoder'}", f"-I{SOURCE_DIR}"]
    subprocess.run(["cc", *WARNINGS, *sanitisers, *places, "-o", program, *sources], check=True)

    def read(paths):
        done = subprocess.run([program, *paths], check=True, capture_output=True, text=True)
        assert not done.stderr
        return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]

    return read


def random_map(seed, width=40, height=37, frames=2, probability=False):
    rng = np.random.default_rng(seed)
    form = MapFormat(width, height, int(rng.integers(256)), probability)
    masks = rng.integers(0, 1 << 10, (frames, *form.grid)).astype(np.uint16) | 1
    quantised = rng.integers(0, 256, (frames, *form.grid, 10)).astype(np.uint8) if probability else None
    return PartitionMap(form, leave_edges(masks, width, height), quantised)


def as_numbers(part):
    """What map_text prints of a sound map."""
    form, numbers = part.format, []
    for i, masks in enumerate(part.masks):
        numbers += masks.ravel().tolist()
        numbers += [] if part.probability is None else part.probability[i].ravel().tolist()
    return [form.width, form.height, *form.grid, form.qindex, *numbers, END]


def python_verdict(path):
    try:
        return as_numbers(read_partition_map(path))
    except InputError:
        return None


@pytest.mark.parametrize("probability", [False, True])
@pytest.mark.parametrize(("width", "height"), [(16, 16), (40, 37), (48, 32), (17, 130)])
def test_c_reads_what_python_writes(tmp_path, read_in_c, width, height, probability):
    part = random_map(width, width, height, 3, probability)
    write(tmp_path / "a.apm", part)
    assert read_in_c([tmp_path / "a.apm"]) == [as_numbers(part)] == [python_verdict(tmp_path / "a.apm")]


def test_a_map_without_a_count_ends_with_its_file(tmp_path, read_in_c):
    part, path = random_map(1), tmp_path / "a.apm"
    write(path, part)
    data = bytearray(path.read_bytes())
    data[20:24] = bytes(4)
    path.write_bytes(data)
    assert read_in_c([path]) == [as_numbers(part)] == [python_verdict(path)]


def _changed(at, code, value):
    def change(data):
        struct.pack_into(code, data, at, value)
        return data

    return change


DAMAGE = {
    "no file at all": (lambda data: None, CANNOT_OPEN),
    "empty": (lambda data: b"", NOT_A_MAP),
    "half a header": (lambda data: data[:31], NOT_A_MAP),
    "other magic": (_changed(7, "<B", 1), NOT_A_MAP),
    "newer version": (_changed(8, "<H", 2), OTHER_VERSION),
    "longer header": (_changed(10, "<H", 36), BAD_HEADER),
    "narrow": (_changed(12, "<I", 15), BAD_HEADER),
    "too wide": (_changed(12, "<I", 65537), BAD_HEADER),
    "huge": (_changed(16, "<I", 0xFFFFFFFF), BAD_HEADER),
    "node size": (_changed(25, "<B", 8), BAD_HEADER),
    "unknown flag": (_changed(26, "<H", 2), BAD_HEADER),
    "reserved": (_changed(28, "<I", 1), BAD_HEADER),
    "no frame": (lambda data: data[:32], TRUNCATED),
    "cut off": (lambda data: data[:-1], TRUNCATED),
    "a frame too few": (_changed(20, "<I", 3), TRUNCATED),
    "a byte too many": (lambda data: data + b"\0", TOO_LONG),
    "a frame too many": (_changed(20, "<I", 1), TOO_LONG),
    "without NONE": (_changed(32, "<H", 2), BAD_MASK),
    "an eleventh type": (_changed(32, "<H", 0x401), BAD_MASK),
    "decided at the right": (_changed(32 + 4, "<H", 1), BAD_MASK),
    "decided at the bottom": (_changed(32 + 2 * 6, "<H", 1), BAD_MASK),
    "probabilities announced": (_changed(26, "<H", 1), TRUNCATED),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_malformed_maps_are_refused(tmp_path, read_in_c, case):
    path, (change, status) = tmp_path / "a.apm", DAMAGE[case]
    write(path, random_map(2))
    assert read_in_c([path])[0][-1] == END
    damaged = change(bytearray(path.read_bytes()))
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    assert read_in_c([path])[0][-1] == status
    with pytest.raises(InputError):
        read_partition_map(path)


def test_1000_fuzzed_maps(tmp_path, read_in_c):
    """Bit flips, truncations, foreign sizes: both readers refuse or accept alike, and neither crashes."""
    rng, paths, sound = np.random.default_rng(0), [], []
    for i in range(8):
        write(tmp_path / "sound", random_map(i, probability=bool(i % 2)))
        sound.append((tmp_path / "sound").read_bytes())
    for i in range(1000):
        path, data = tmp_path / f"{i}.apm", bytearray(sound[i % 8])
        if i % 3 == 0:
            for bit in rng.integers(8 * len(data), size=rng.integers(1, 6)):
                data[bit // 8] ^= 1 << bit % 8
        elif i % 3 == 1:
            data = data[: rng.integers(len(data))]
        else:
            struct.pack_into("<2I", data, 12, *(int(v) for v in rng.integers(0, 80, 2)))
        path.write_bytes(data)
        paths.append(path)
    seen = read_in_c(paths)
    assert len(seen) == 1000
    for path, numbers in zip(paths, seen, strict=True):
        expected = python_verdict(path)
        assert (numbers == expected) if expected else numbers[-1] != END
    assert {numbers[-1] for numbers in seen} >= {END, NOT_A_MAP, BAD_HEADER, BAD_MASK, TRUNCATED}


def test_the_header_is_as_documented():
    assert HEADER.size == 32
    assert MapFormat(100, 50, 7).header(9).hex(" ") == (
        "41 56 31 50 4d 41 50 00 01 00 20 00 64 00 00 00 32 00 00 00 09 00 00 00 07 10 00 00 00 00 00 00"
    )
    assert UNDECIDED == 0x3FF
