"""Partition maps: which partitions an encoder may try at each 16x16 node of each frame (docs/DESIGN.md, Partition map).

    header, 32 bytes             frame 0                                      frame 1 ...
    +---------------------------+--------------------+-----------------------+--------
    | magic version size qindex | masks [rows, cols] | probability, if there | masks ...
    +---------------------------+--------------------+-----------------------+--------

All numbers are little-endian. encoder/partition_map.{h,c} read the same files in C.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from errors import InputError
from files import atomic_file
from partition import Partition, candidate_sets

SUFFIX: Final = ".apm"
UNDECIDED: Final = 0x3FF
"""Mask of a node that is left to the encoder: all ten partitions."""

MAGIC: Final = b"AV1PMAP\0"
VERSION: Final = 1
NODE_SIZE: Final = 16
"""Luma samples along one side of a node, in maps of this version."""
HEADER: Final = struct.Struct("<8s2H3I2BHI")
"""magic, version, header bytes, width, height, frames, qindex, node size, flags, 0."""

MAX_SIDE: Final = 65536
FRAMES_AT: Final = 20
"""Where the header holds the number of frames."""

_HAS_PROBABILITY: Final = 1
_TYPES: Final = len(Partition)


@dataclass(frozen=True)
class MapFormat:
    """What holds for every frame of a map.

    Attributes:
        width, height: of the frames, in luma samples, 16-65536.
        qindex: that the frames are to be encoded at, 0-255.
        has_probability: probabilities follow the masks of each frame.
    """

    width: int
    height: int
    qindex: int
    has_probability: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of nodes; those of the last may straddle the frame's edge."""
        return -(-self.height // NODE_SIZE), -(-self.width // NODE_SIZE)

    @property
    def nodes(self) -> int:
        """Nodes of a frame."""
        return self.grid[0] * self.grid[1]

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame in a file."""
        return self.nodes * (2 + _TYPES * self.has_probability)

    def header(self, frames: int) -> bytes:
        """The file's first 32 bytes; 0 frames: as many as come until the end."""
        flags = _HAS_PROBABILITY if self.has_probability else 0
        sizes = self.width, self.height, frames
        return HEADER.pack(MAGIC, VERSION, HEADER.size, *sizes, self.qindex, NODE_SIZE, flags, 0)


@dataclass(frozen=True)
class PartitionMap:
    """A map that was read.

    Attributes:
        format: of its frames.
        masks: uint16 [frames, rows, cols], bit i for Partition(i); NONE is always set.
        probability: uint8 [frames, rows, cols, 10], 255 for certain; None if the file holds none.
    """

    format: MapFormat
    masks: NDArray[np.uint16]
    probability: NDArray[np.uint8] | None


def candidate_masks(probability: NDArray[np.floating], threshold: float) -> NDArray[np.uint16]:
    """The candidates of each node as a mask: NONE, and what is at least that likely.

    Args:
        probability: float [..., 10].
        threshold: 0-1; 0 makes every node undecided.

    Returns:
        uint16 [...], bit i for Partition(i).
    """
    bits = np.uint16(1) << np.arange(_TYPES, dtype=np.uint16)
    return (candidate_sets(probability, threshold) * bits).sum(-1, dtype=np.uint16)


def leave_edges(masks: NDArray[np.uint16], width: int, height: int) -> NDArray[np.uint16]:
    """The same masks with nodes that straddle the frame's edge undecided, [..., rows, cols]."""
    edged = masks.copy()
    edged[..., height // NODE_SIZE :, :] = UNDECIDED
    edged[..., :, width // NODE_SIZE :] = UNDECIDED
    return edged


def write_partition_map(path: Path, part: PartitionMap) -> None:
    """Write a whole map, or nothing.

    Raises:
        OutputError: if it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(part.format.header(len(part.masks)))
        for i, masks in enumerate(part.masks):
            file.write(masks.astype("<u2").tobytes())
            if part.probability is not None:
                file.write(part.probability[i].tobytes())


def read_partition_map(path: Path) -> PartitionMap:
    """Read a map, and check every node of it.

    Raises:
        InputError: if it is missing, cut off, too long, of another kind or version, or holds an impossible mask.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    form, frames = _parse_header(path, data)
    body = np.frombuffer(data, np.uint8, offset=HEADER.size)
    count = frames or len(body) // form.frame_bytes
    if len(body) != count * form.frame_bytes or not count:
        raise InputError(f"{path}: {len(body):,} bytes of frames, expected {count * form.frame_bytes:,}", _REMAKE)
    each = body.reshape(count, form.frame_bytes)
    masks = each[:, : 2 * form.nodes].copy().view("<u2").reshape(count, *form.grid).astype(np.uint16)
    _check_masks(path, masks, form)
    quantised = each[:, 2 * form.nodes :].reshape(count, *form.grid, _TYPES) if form.has_probability else None
    return PartitionMap(form, masks, quantised)


_REMAKE = "make it again: cli.py predict FRAMES --output FILE.apm"


def _parse_header(path: Path, data: bytes) -> tuple[MapFormat, int]:
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise InputError(f"{path} is no partition map", _REMAKE)
    _, version, size, width, height, frames, qindex, node, flags, zero = HEADER.unpack_from(data)
    if version != VERSION:
        raise InputError(f"{path} is a partition map of version {version}, this reads {VERSION}", _REMAKE)
    sides_fit = all(NODE_SIZE <= side <= MAX_SIDE for side in (width, height))
    if size != HEADER.size or node != NODE_SIZE or flags & ~_HAS_PROBABILITY or zero or not sides_fit:
        raise InputError(f"{path}: its header is malformed", _REMAKE)
    return MapFormat(width, height, qindex, bool(flags & _HAS_PROBABILITY)), frames


def _check_masks(path: Path, masks: NDArray[np.uint16], form: MapFormat) -> None:
    wrong = (masks > UNDECIDED) | (masks & 1 == 0) | (leave_edges(masks, form.width, form.height) != masks)
    if wrong.any():
        frame, row, col = np.argwhere(wrong)[0]
        mask = masks[frame, row, col]
        raise InputError(f"{path}: frame {frame}, node {row}, {col} has the impossible mask {mask:#06x}", _REMAKE)
