"""What a frame is: size, depth and chroma format, its planes of samples, and a file of frames."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from errors import InputError
from partition import NODE_SIZE

CHROMA_SHIFTS = {"420": (1, 1), "422": (1, 0), "444": (0, 0), "mono": None}
"""How often width and height are halved for the chroma planes, by chroma format; None: there are none."""

BIT_DEPTHS = (8, 10, 12)
MAX_SIZE = 65536
"""Largest width and height that an AV1 sequence header can hold."""
_BAND_SAMPLES = 1 << 24


@dataclass(frozen=True)
class FrameFormat:
    """Size, depth and chroma format of a frame.

    Raises:
        InputError: if a side is under 16 or over 65536 samples, or depth or chroma format are unknown.
    """

    width: int
    height: int
    bit_depth: int
    chroma: str

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not NODE_SIZE <= side <= MAX_SIZE:
                size = f"{self.width}x{self.height}"
                raise InputError(f"frames are {size}: {name} must be {NODE_SIZE} to {MAX_SIZE}", _size_hint(side))
        if self.bit_depth not in BIT_DEPTHS:
            raise InputError(f"{self.bit_depth} bits per sample; AV1 has 8, 10 and 12")
        if self.chroma not in CHROMA_SHIFTS:
            raise InputError(f"chroma format '{self.chroma}' is none of {', '.join(CHROMA_SHIFTS)}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.chroma} {self.bit_depth} bit"

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """Type of the samples in memory and in planar files: uint8 at 8 bit, little-endian uint16 above."""
        return np.dtype(np.uint8) if self.bit_depth == 8 else np.dtype("<u2")

    @property
    def plane_shapes(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of Y and, where there is chroma, U and V; odd sizes are rounded up."""
        shifts = CHROMA_SHIFTS[self.chroma]
        luma = (self.height, self.width)
        if shifts is None:
            return (luma,)
        chroma = -(-self.height // (1 << shifts[1])), -(-self.width // (1 << shifts[0]))
        return luma, chroma, chroma

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in a planar file."""
        return self.dtype.itemsize * sum(rows * cols for rows, cols in self.plane_shapes)


def _size_hint(side: int) -> str:
    if side < 1:
        return "no frame has such a size: is it damaged?"
    return "cut it into parts: AV1 has no larger frames" if side > MAX_SIZE else "it holds no whole 16x16 node"


@dataclass(frozen=True)
class Frame:
    """The planes of one frame.

    Attributes:
        planes: Y [H, W], and U, V [ceil(H / 2 or 1), ceil(W / 2 or 1)] unless monochrome; uint8 at 8 bit,
            uint16 above, values 0 to 2**bit_depth - 1.
    """

    planes: tuple[NDArray[np.integer], ...]

    @property
    def luma(self) -> NDArray[np.integer]:
        """Y, [H, W]."""
        return self.planes[0]


def format_of(path: Path, width: int, height: int, bit_depth: int, chroma: str) -> FrameFormat:
    """A file's FrameFormat.

    Raises:
        InputError: as FrameFormat, with the file's name.
    """
    try:
        return FrameFormat(width, height, bit_depth, chroma)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


class FrameSource(ABC):
    """An open file of frames that all have one format; a context manager that yields frames lazily.

    Attributes:
        path: the file.
        format: of every frame.
        frame_count: how many whole frames there are, None if only reading them all can tell.
        is_picture: a single picture, not the first frame of a clip.
        notes: what people should know of how it is read, such as which of several videos it is; a line each.
    """

    path: Path
    format: FrameFormat
    frame_count: int | None
    is_picture = False
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without folder and suffix."""
        return self.path.stem

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame from the first on.

        Raises:
            InputError: when a frame cannot be read; the message says how many whole frames were.
        """

    def close(self) -> None:
        """Let go of the file; nothing to do for most."""
        return

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_samples(frame: Frame, bit_depth: int, where: str) -> Frame:
    """The frame itself, once its samples are known to fit the bit depth.

    Raises:
        InputError: if a sample is larger than 2**bit_depth - 1.
    """
    if bit_depth > 8:
        largest = max(int(band.max()) for plane in frame.planes for band in bands(plane))
        if largest >> bit_depth:
            raise InputError(f"{where}: sample {largest} does not fit {bit_depth} bits", "another bit depth?")
    return frame


def bands(plane: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """A plane [H, W] in bands of rows, some 16 million samples each: between two of them Ctrl-C is heard."""
    rows = max(1, _BAND_SAMPLES // plane.shape[1])
    for top in range(0, len(plane), rows):
        yield plane[top : top + rows]


def is_constant(plane: NDArray[np.integer]) -> bool:
    """Whether all samples of a plane [H, W] are one value."""
    first = plane[0, 0]
    return all(bool((band == first).all()) for band in bands(plane))


def hash_plane(plane: NDArray[np.integer]) -> bytes:
    """SHA-256 of the samples of a plane [H, W], row by row."""
    digest = hashlib.sha256()
    for band in bands(plane):
        digest.update(np.ascontiguousarray(band).data)
    return digest.digest()


def too_large(path: Path, frame_format: FrameFormat) -> InputError:
    """What to raise where memory does not suffice for one frame."""
    return InputError(f"{path}: no memory for a frame of {frame_format}", "cut it into parts, or scale it down")
