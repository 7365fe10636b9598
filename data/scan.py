"""The first look at the input of a dataset build: every file read to its end once, before hours of encoding.

What cannot be read is found here, what is there twice, and which pictures cannot teach anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.names import kept_name, printable
from errors import InputError, ToolkitError, UsageError
from frames.frame import Frame, FrameFormat, FrameSource, bands, hash_plane, is_constant
from frames.reader import Kind, kind_of, open_frames
from progress import Progress


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
        name: of the clip or picture in the dataset.
        format: of its frames.
        frames: those to encode.
        constant: how many frames were left out since their luma is one value.
        notes: as FrameSource.notes.
    """

    path: Path
    name: str
    format: FrameFormat
    frames: tuple[ScannedFrame, ...]
    constant: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadOptions:
    """How input files are read; what is of one kind of file is left out for the others.

    Attributes:
        raw: format of raw YUV files.
        packed_420: grey pictures hold packed 4:2:0 planes.
        picture_depth: depth of the samples of 16-bit pictures.
        every: take each k-th frame of a clip.
    """

    raw: FrameFormat | None = None
    packed_420: bool = False
    picture_depth: int | None = None
    every: int = 1

    def open(self, path: Path) -> FrameSource:
        """As open_frames."""
        kind = self._kind(path)
        raw = self.raw if kind is Kind.RAW else None
        return open_frames(path, raw, self.packed_420 and kind is Kind.PICTURE, self._depth(kind))

    def check_use(self, paths: Sequence[Path]) -> None:
        """Refuse what is of a kind of file that none of these is; files that cannot be opened may be of any.

        Raises:
            UsageError: naming the option.
        """
        kinds = set()
        for path in paths:
            try:
                kinds.add(self._kind(path))
            except InputError:
                return
        unused = {
            "--size": self.raw is not None and Kind.RAW not in kinds,
            "--packed-420": self.packed_420 and Kind.PICTURE not in kinds,
            "--bit-depth": self.picture_depth is not None and kinds.isdisjoint((Kind.RAW, Kind.PICTURE)),
        }
        for option in (name for name, is_unused in unused.items() if is_unused):
            kind = Kind.PICTURE if option == "--packed-420" else Kind.RAW
            raise UsageError(f"{option} is of {kind.value}, and there is none among the files", "leave it out")

    def _kind(self, path: Path) -> Kind:
        return kind_of(path, self.raw is not None)

    def _depth(self, kind: Kind) -> int | None:
        return self.picture_depth if kind is Kind.PICTURE else None

    def frames(self, source: FrameSource) -> Iterator[tuple[int, Frame]]:
        """Number and samples of the frames that are taken."""
        for index, frame in enumerate(source):
            if index % self.every == 0:
                yield index, frame


def hash_frame(frame: Frame) -> str:
    """SHA-256 of all planes and their sizes, hex."""
    digest = hashlib.sha256()
    for plane in frame.planes:
        digest.update(f"{plane.shape} {plane.dtype}".encode())
        for band in bands(plane):
            digest.update(np.ascontiguousarray(band).data)
    return digest.hexdigest()


def scan_file(path: Path, options: ReadOptions) -> ScannedClip:
    """Read one file to its end.

    Raises:
        InputError: if it cannot be read, or holds no frame that could teach anything.
    """
    frames, constant, clip = [], 0, kept_name(path.stem)
    with options.open(path) as source:
        for index, frame in options.frames(source):
            if is_constant(frame.luma):
                constant += 1
                continue
            name = picture_name(clip, source, index)
            frames.append(ScannedFrame(name, index, hash_plane(frame.luma), hash_frame(frame)))
    if not frames:
        raise InputError(f"{path}: every frame is one constant value", "such pictures teach nothing")
    return ScannedClip(path, clip, source.format, tuple(frames), constant, source.notes)


def picture_name(clip: str, source: FrameSource, index: int) -> str:
    """What a frame is called in the dataset."""
    return clip if source.is_picture else f"{clip}_f{index:04d}"


def scan_files(
    paths: tuple[Path, ...], options: ReadOptions, progress: Progress
) -> tuple[list[ScannedClip], dict[str, ToolkitError]]:
    """Read all files; those that fail are told apart by path.

    Raises:
        InputError: if two files would give pictures of the same name, or bit depths mix.
        UsageError: if an option is of no file's kind.
    """
    options.check_use(paths)
    clips: list[ScannedClip] = []
    failures: dict[str, ToolkitError] = {}
    for done, path in enumerate(paths):
        progress(done, len(paths), f"reading {printable(path.name)}")
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
