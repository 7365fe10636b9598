"""What we derive from the block-size map, against libaom's own get_partition() and the partition that its decoder
parsed, at every node of every size (partition_nodes.c)."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from encoder.libaom.library import EncodeOptions, Libaom, cq_of_qindex, libaom_dir
from frames.frame import FrameFormat
from frames.reader import open_frames
from partition import COVERED, partitions_from_map, tree_partitions
from tests.encodes import crop, needs_libaom

pytestmark = needs_libaom


@pytest.fixture(scope="module")
def node_printer(tmp_path_factory):
    program = tmp_path_factory.mktemp("nodes") / "partition_nodes"
    source = Path(__file__).with_name("partition_nodes.c")
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-DNDEBUG", "-isystem", libaom_dir() / "include"]
    libraries = [libaom_dir() / "lib" / "libaom.a", "-lm", "-lpthread"]
    subprocess.run([*command, "-o", program, source, *libraries], check=True)
    return program


def mismatches(program: Path, folder: Path, frame, frame_format, qindex: int, cpu_used: int) -> tuple[int, int]:
    """Nodes of one encode, and how many of them we read otherwise than libaom."""
    libaom = Libaom()
    stream = libaom.encode(frame, frame_format, cq_of_qindex(qindex), EncodeOptions(cpu_used))
    (coded,) = libaom.decode([stream])
    path = folder / f"{id(frame)}_{qindex}_{cpu_used}.obu"
    path.write_bytes(stream)
    text = subprocess.run([program, path], check=True, capture_output=True, text=True).stdout
    superblock, size, row, col, partition, parsed = np.array([line.split() for line in text.splitlines()], int).T
    tree = tree_partitions(coded.bsize)
    ours = np.array([tree[s][4 * r // s, 4 * c // s] for s, r, c in zip(size, row, col, strict=True)])
    wrong = int(np.count_nonzero((ours != partition) | (ours != parsed)))
    # Nor may we see nodes that libaom does not have.
    found = sum(np.count_nonzero(nodes != COVERED) for s, nodes in tree.items() if s <= superblock[0])
    labels = partitions_from_map(coded.bsize, frame_format.width, frame_format.height)
    own = np.full_like(labels, COVERED)
    whole = (size == 16) & (4 * row + 16 <= frame_format.height) & (4 * col + 16 <= frame_format.width)
    own[row[whole] // 4, col[whole] // 4] = partition[whole]
    return len(ours), wrong + abs(found - len(ours)) + int(np.count_nonzero(labels != own))


@pytest.mark.parametrize(
    ("frame_format", "cpu_used"),
    [
        (FrameFormat(320, 200, 8, "420"), 1),
        (FrameFormat(333, 171, 8, "420"), 4),
        (FrameFormat(150, 90, 10, "444"), 2),
        (FrameFormat(150, 90, 8, "422"), 6),
        (FrameFormat(201, 133, 12, "mono"), 4),
    ],
)
@pytest.mark.parametrize("qindex", [20, 128, 255])
def test_every_node_matches_libaom(node_printer, tmp_path, frame_format, cpu_used, qindex):
    nodes, wrong = mismatches(node_printer, tmp_path, crop(frame_format), frame_format, qindex, cpu_used)
    assert wrong == 0
    assert nodes > frame_format.width * frame_format.height / 64**2 / 2


@pytest.mark.slow
def test_200_thousand_nodes_match_libaom(node_printer, tmp_path, shared):
    sources = [open_frames(p, packed_420=True) for p in sorted((shared / "sample" / "yuv420").glob("*.png"))]
    jobs = [(next(iter(s)), s.format, q, cpu) for s in sources for q, cpu in ((20, 3), (48, 4), (80, 4), (128, 4))]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: mismatches(node_printer, tmp_path, *job), jobs))
    nodes, wrong = np.sum(results, 0)
    print(f"{nodes} nodes of {len(jobs)} encodes, {wrong} mismatches")
    assert wrong == 0
    assert nodes >= 200_000
