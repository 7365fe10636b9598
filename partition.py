"""The AV1 partition vocabulary: ids, block sizes, what is legal where, how a block-size map becomes labels.

Every other module takes its ids, names and geometry from here, so that no two of them can disagree.

The ten partition types of a square node (AV1 specification, section 6.10.4; * may be split further):

    NONE     HORZ     VERT     SPLIT    HORZ_A   HORZ_B   VERT_A   VERT_B   HORZ_4   VERT_4
    +-----+  +-----+  +--+--+  +--+--+  +--+--+  +-----+  +--+--+  +--+--+  +-----+  +-+-+-+-+
    |     |  |     |  |  |  |  |* |* |  |  |  |  |     |  |  |  |  |  |  |  +-----+  | | | | |
    |     |  +-----+  |  |  |  +--+--+  +--+--+  +--+--+  +--+  |  |  +--+  +-----+  | | | | |
    |     |  |     |  |  |  |  |* |* |  |     |  |  |  |  |  |  |  |  |  |  +-----+  | | | | |
    +-----+  +-----+  +--+--+  +--+--+  +-----+  +--+--+  +--+--+  +--+--+  +-----+  +-+-+-+-+

A *mi unit* is 4x4 luma samples. A *block-size map* holds, for each mi unit, the BLOCK_SIZE id of the block
that covers it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

MI_SIZE: Final = 4
"""Luma samples along one side of a mi unit."""

NODE_SIZES: Final = (128, 64, 32, 16, 8)
"""Luma samples along one side of the square nodes of the partition tree, from its root down."""

NODE_SIZE: Final = 16
"""Luma samples along one side of the nodes of `partitions_from_map`; a smaller frame holds none."""

QINDEX_BANDS: Final = ((0, 99), (100, 147), (148, 195), (196, 255))
"""The bands of qindex, both ends in, by which metrics and parity are reported."""

COVERED: Final = 255
"""Label of a position that has no node of its size, since a larger partition covers it."""

OUTSIDE: Final = 254
"""Label of a position that does not lie wholly inside its frame: encoders signal less there."""


class Partition(IntEnum):
    """Partition types in AV1's order."""

    NONE = 0
    HORZ = 1
    VERT = 2
    SPLIT = 3
    HORZ_A = 4
    HORZ_B = 5
    VERT_A = 6
    VERT_B = 7
    HORZ_4 = 8
    VERT_4 = 9


PARTITION_NAMES: Final = tuple(p.name for p in Partition)


class BlockSize(IntEnum):
    """BLOCK_SIZE ids, named width x height in luma samples (AV1 specification, section 6.10.4)."""

    BLOCK_4X4 = 0
    BLOCK_4X8 = 1
    BLOCK_8X4 = 2
    BLOCK_8X8 = 3
    BLOCK_8X16 = 4
    BLOCK_16X8 = 5
    BLOCK_16X16 = 6
    BLOCK_16X32 = 7
    BLOCK_32X16 = 8
    BLOCK_32X32 = 9
    BLOCK_32X64 = 10
    BLOCK_64X32 = 11
    BLOCK_64X64 = 12
    BLOCK_64X128 = 13
    BLOCK_128X64 = 14
    BLOCK_128X128 = 15
    BLOCK_4X16 = 16
    BLOCK_16X4 = 17
    BLOCK_8X32 = 18
    BLOCK_32X8 = 19
    BLOCK_16X64 = 20
    BLOCK_64X16 = 21

    @property
    def width(self) -> int:
        """Width in luma samples."""
        return int(self.name.removeprefix("BLOCK_").split("X")[0])

    @property
    def height(self) -> int:
        """Height in luma samples."""
        return int(self.name.split("X")[1])


BLOCK_SIZES: Final = len(BlockSize)
# Width and height in mi units by BLOCK_SIZE id; the last entry, 0, stands for units outside the map.
_WIDTH_MI: Final = np.array([b.width // MI_SIZE for b in BlockSize] + [0], np.uint8)
_HEIGHT_MI: Final = np.array([b.height // MI_SIZE for b in BlockSize] + [0], np.uint8)


def candidate_sets(probability: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Which partitions are worth trying: NONE, and every type whose probability is at least the threshold.

    Args:
        probability: float [..., 10].
        threshold: 0-1.

    Returns:
        bool [..., 10].
    """
    sets = probability >= threshold
    sets[..., Partition.NONE] = True
    return sets


def legal_partitions(block_size: BlockSize) -> tuple[Partition, ...]:
    """Partition types a node of this size may have.

    8x8: the first four; 16x16 to 64x64: all ten; 128x128: the first eight (no 4-way).

    Raises:
        ValueError: if the block is no square node of 8x8 to 128x128.
    """
    if block_size.width != block_size.height or block_size is BlockSize.BLOCK_4X4:
        raise ValueError(f"{block_size.name} is not a partition node; nodes are square, 8x8 to 128x128")
    count = {8: 4, 128: 8}.get(block_size.width, 10)
    return tuple(Partition)[:count]


def partition_rectangles(partition: Partition, size: int) -> tuple[tuple[int, int, int, int], ...]:
    """The blocks a partition cuts a node into, as (top, left, height, width), in coding order.

    Args:
        partition: the type; SPLIT gives its four quarters, each a node of its own.
        size: side of the node, in any unit that 4 divides (2 suffices where the type is no 4-way).
    """
    s, h, q = size, size // 2, size // 4
    top, bottom, left, right = (0, 0, h, s), (h, 0, h, s), (0, 0, s, h), (0, h, s, h)
    quarters = ((0, 0, h, h), (0, h, h, h), (h, 0, h, h), (h, h, h, h))
    return {
        Partition.NONE: ((0, 0, s, s),),
        Partition.HORZ: (top, bottom),
        Partition.VERT: (left, right),
        Partition.SPLIT: quarters,
        Partition.HORZ_A: (quarters[0], quarters[1], bottom),
        Partition.HORZ_B: (top, quarters[2], quarters[3]),
        Partition.VERT_A: (quarters[0], quarters[2], right),
        Partition.VERT_B: (left, quarters[1], quarters[3]),
        Partition.HORZ_4: tuple((q * i, 0, q, s) for i in range(4)),
        Partition.VERT_4: tuple((0, q * i, s, q) for i in range(4)),
    }[partition]


def _permutation(*swaps: tuple[Partition, Partition]) -> NDArray[np.uint8]:
    table = np.arange(256, dtype=np.uint8)
    for a, b in swaps:
        table[a], table[b] = b, a
    return table


FLIP_LEFT_RIGHT: Final = _permutation((Partition.VERT_A, Partition.VERT_B))
FLIP_UP_DOWN: Final = _permutation((Partition.HORZ_A, Partition.HORZ_B))
TRANSPOSE: Final = _permutation(
    (Partition.HORZ, Partition.VERT),
    (Partition.HORZ_A, Partition.VERT_A),
    (Partition.HORZ_B, Partition.VERT_B),
    (Partition.HORZ_4, Partition.VERT_4),
)
"""Label of the mirrored or transposed block by label of the block, uint8 [256]; COVERED stays COVERED."""


def map_shape(width: int, height: int) -> tuple[int, int]:
    """Rows and columns, in mi units, of the block-size map of a frame (frames are padded to 8 samples)."""
    return 2 * -(-height // 8), 2 * -(-width // 8)


def _node_partitions(bsize: NDArray[np.uint8], size_mi: int, rows: int, cols: int) -> NDArray[np.uint8]:
    """Partition of each node of one size, or COVERED; the node's parent is not looked at.

    Args:
        bsize: block-size map [R, C], uint8.
        size_mi: side of the nodes in mi units, at least 2.
        rows, cols: how many nodes to read down and across, from the top left corner.
    """
    outside = len(_WIDTH_MI) - 1
    need = rows * size_mi, cols * size_mi
    padded = np.full(np.maximum(need, bsize.shape), outside, np.uint8)
    padded[: bsize.shape[0], : bsize.shape[1]] = bsize
    half = size_mi // 2
    first, below, right = (
        padded[r : need[0] : size_mi, c : need[1] : size_mi] for r, c in ((0, 0), (half, 0), (0, half))
    )
    width, height = _WIDTH_MI[first], _HEIGHT_MI[first]
    # A 4-way, A/B or B type needs a whole node: at the frame edge, where the middle is outside, only
    # HORZ, VERT and SPLIT can be signalled.
    whole = (below != outside) & (right != outside)
    conditions = [
        (width > size_mi) | (height > size_mi),
        (width == size_mi) & (height == size_mi),
        (width == size_mi) & whole & (height * 4 == size_mi),
        (width == size_mi) & whole & (below != first),
        width == size_mi,
        (height == size_mi) & whole & (width * 4 == size_mi),
        (height == size_mi) & whole & (right != first),
        height == size_mi,
        whole & (width == half) & (height == half) & (_WIDTH_MI[below] == size_mi),
        whole & (width == half) & (height == half) & (_HEIGHT_MI[right] == size_mi),
    ]
    types = [
        COVERED,
        Partition.NONE,
        Partition.HORZ_4,
        Partition.HORZ_B,
        Partition.HORZ,
        Partition.VERT_4,
        Partition.VERT_B,
        Partition.VERT,
        Partition.HORZ_A,
        Partition.VERT_A,
    ]
    return np.select(conditions, [np.uint8(t) for t in types], np.uint8(Partition.SPLIT))


def partitions_from_map(bsize: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Partition of every 16x16 node that lies wholly inside a frame.

    A 16x16 block inside a 32x32 node that is not SPLIT is a leaf of that node's A/B partition: there is no
    16x16 node then, and the position counts as covered.

    Args:
        bsize: block-size map, uint8 [R, C], values 0-21, R = 2 ceil(height / 8), C = 2 ceil(width / 8).
        width, height: frame size in luma samples.

    Returns:
        uint8 [height // 16, width // 16]: partition id 0-9 or COVERED.

    Raises:
        ValueError: if the map's size does not fit the frame, or it holds an unknown block size.
    """
    expected = map_shape(width, height)
    if bsize.shape != expected:
        raise ValueError(f"block-size map is {bsize.shape}, a {width}x{height} frame needs {expected}")
    if bsize.size and int(bsize.max()) >= BLOCK_SIZES:
        raise ValueError(f"block-size map holds {int(bsize.max())}; ids are 0-{BLOCK_SIZES - 1}")
    rows, cols = height // NODE_SIZE, width // NODE_SIZE
    side = NODE_SIZE // MI_SIZE
    nodes = _node_partitions(bsize, side, rows, cols)
    parents = _node_partitions(bsize, 2 * side, -(-rows // 2), -(-cols // 2))
    parent = parents.repeat(2, 0).repeat(2, 1)[:rows, :cols]
    orphan = (nodes != COVERED) & (parent != Partition.SPLIT)
    return np.where(orphan, np.uint8(COVERED), nodes)


def tree_partitions(bsize: NDArray[np.uint8], smallest: int = 8) -> dict[int, NDArray[np.uint8]]:
    """The whole partition tree of a frame, nodes that straddle its edge included.

    Superblocks of 64x64 look like 128x128 nodes that are SPLIT: a map cannot tell the two apart.

    Args:
        bsize: block-size map, uint8 [R, C], values 0-21.
        smallest: node size to stop at.

    Returns:
        For each node size from 128 down to `smallest` luma samples, uint8 [ceil(4R / size), ceil(4C / size)]:
        partition id 0-9, or COVERED where a larger block leaves no node of this size.
    """
    tree: dict[int, NDArray[np.uint8]] = {}
    for size in NODE_SIZES[: NODE_SIZES.index(smallest) + 1]:
        side = size // MI_SIZE
        rows, cols = (-(-n // side) for n in bsize.shape)
        nodes = _node_partitions(bsize, side, rows, cols)
        if tree:
            parent = tree[2 * size].repeat(2, 0).repeat(2, 1)[:rows, :cols]
            nodes = np.where(parent == Partition.SPLIT, nodes, np.uint8(COVERED))
        tree[size] = nodes
    return tree


def block_origins(bsize: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Top and left, in mi units, of the block that covers each mi unit; int [R, C] each.

    Every AV1 block lies at a multiple of its own height and width, so its place follows from its size.
    """
    rows, cols = np.indices(bsize.shape)
    return rows - rows % _HEIGHT_MI[bsize], cols - cols % _WIDTH_MI[bsize]
