"""The first look at the input of a dataset build: every file read to its end once, before hours of encoding.

What cannot be read is found here, what is there twice, and which pictures cannot teach anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from errors import InputError, ToolkitError
from frames.frame import Frame, FrameFormat, FrameSource
from frames.reader import open_frames


@dataclass(frozen=True)
class ScannedFrame:
    """One frame that is worth encoding.

    Attributes:
        name: of the picture in the dataset.
        index: number of the frame in its file, from 0.
        luma_hash: SHA-256 of the luma samples; equal ones are the same picture.
        frame_hash: SHA-256 of all planes, hex.
    """

    name: str
    index: int
    luma_hash: bytes
    frame_hash: str


@dataclass(frozen=True)
class ScannedClip:
    """A file that could be read to its end.

    Attributes:
        path: the file.
        name: of the clip or picture.
        format: of its frames.
        frames: those to encode.
        constant: how many frames were left out since their luma is one value.
    """

    path: Path
    name: str
    format: FrameFormat
    frames: tuple[ScannedFrame, ...]
    constant: int


@dataclass(frozen=True)
class ReadOptions:
    """How input files are read.

    Attributes:
        raw: format of raw YUV files.
        packed_420: grey pictures hold packed 4:2:0 planes.
        picture_depth: depth of the samples of 16-bit grey pictures.
        every: take each k-th frame of a clip.
    """

    raw: FrameFormat | None = None
    packed_420: bool = False
    picture_depth: int | None = None
    every: int = 1

    def open(self, path: Path) -> FrameSource:
        """As open_frames."""
        return open_frames(path, self.raw, self.packed_420, self.picture_depth)

    def frames(self, source: FrameSource) -> Iterator[tuple[int, Frame]]:
        """Number and samples of the frames that are taken."""
        for index, frame in enumerate(source):
            if index % self.every == 0:
                yield index, frame


def hash_frame(frame: Frame) -> str:
    """SHA-256 of all planes and their sizes, hex."""
    digest = hashlib.sha256()
    for plane in frame.planes:
        digest.update(f"{plane.shape} {plane.dtype}".encode() + plane.tobytes())
    return digest.hexdigest()


def scan_file(path: Path, options: ReadOptions) -> ScannedClip:
    """Read one file to its end.

    Raises:
        InputError: if it cannot be read, or holds no frame that could teach anything.
    """
    frames, constant = [], 0
    with options.open(path) as source:
        for index, frame in options.frames(source):
            if frame.luma.min() == frame.luma.max():
                constant += 1
                continue
            name = source.name if source.is_picture else f"{source.name}_f{index:04d}"
            luma_hash = hashlib.sha256(frame.luma.tobytes()).digest()
            frames.append(ScannedFrame(name, index, luma_hash, hash_frame(frame)))
    if not frames:
        raise InputError(f"{path}: every frame is one constant value", "such pictures teach nothing")
    return ScannedClip(path, source.name, source.format, tuple(frames), constant)


def scan_files(
    paths: tuple[Path, ...], options: ReadOptions, progress: Callable[[int, int, str], None]
) -> tuple[list[ScannedClip], dict[str, ToolkitError]]:
    """Read all files; those that fail are told apart by path.

    Raises:
        InputError: if two files would give pictures of the same name, or bit depths mix.
    """
    clips: list[ScannedClip] = []
    failures: dict[str, ToolkitError] = {}
    for done, path in enumerate(paths):
        progress(done, len(paths), f"reading {path.name}")
        try:
            clips.append(scan_file(path, options))
        except InputError as error:
            failures[str(path)] = error
    progress(len(paths), len(paths), "read")
    _check_names(clips)
    depths = sorted({clip.format.bit_depth for clip in clips})
    if len(depths) > 1:
        raise InputError(f"the files mix bit depths {depths}", "build one dataset for each depth")
    return clips, failures


def _check_names(clips: list[ScannedClip]) -> None:
    owner: dict[str, Path] = {}
    for clip in clips:
        for name in {clip.name, *(frame.name for frame in clip.frames)}:
            if name in owner:
                raise InputError(
                    f"{owner[name]} and {clip.path} would both be '{name}' in the dataset", "rename one of them"
                )
            owner[name] = clip.path
