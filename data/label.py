"""Build a dataset from streams that someone else encoded, each beside its source (encoder/bitstream.py)."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data.build import BuildReport, index_row
from data.names import kept_name, printable
from data.scan import ReadOptions, ScannedClip, ScannedFrame, hash_frame, picture_name
from data.split import assign_splits, missing_splits, read_split_file
from data.store import Recipe, Store
from encoder.bitstream import paired_frames
from encoder.libaom.inspection import CodedFrame
from errors import InputError, UsageError
from frames.frame import Frame, hash_plane, is_constant
from inputs import open_regular
from progress import Announce, Progress


@dataclass(frozen=True)
class LabelConfig:
    """Labels from streams.

    Attributes:
        pairs: AV1 stream and the frames that it was encoded from.
        output_dir: the dataset folder to write.
        read: how the sources are read, and which frames are taken.
        inter: take inter frames too, whose partitions depend on other frames than the one the model sees.
        split_file: CSV of name and split; None: by the hash of the name.
        licence: what the index says of every picture.

    Raises:
        UsageError: if there is no pair, or two sources have the same name.
    """

    pairs: tuple[tuple[Path, Path], ...]
    output_dir: Path
    read: ReadOptions = field(default_factory=ReadOptions)
    inter: bool = False
    split_file: Path | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.pairs or self.read.every < 1:
            raise UsageError("labelling needs at least one stream with its source, and a step of 1 or more")
        twice = [name for name, n in Counter(kept_name(source.stem) for _, source in self.pairs).items() if n > 1]
        if twice:
            raise UsageError(f"two sources are called '{twice[0]}'", "the dataset names pictures after them")


def label_streams(config: LabelConfig, progress: Progress, announce: Announce) -> BuildReport:
    """Write a dataset of the frames of some streams; pairs that cannot be used are left out.

    Raises:
        InputError: if no pair can be used, names collide, or splits contradict each other.
        UsageError: if the folder holds something else already.
        OutputError: if it cannot be written.
        MissingComponentError: if libaom or PyAV is needed and not there.
    """
    start, counts, failures = time.monotonic(), Counter[str](), {}
    given = read_split_file(config.split_file) if config.split_file else None
    config.read.check_use([source for _, source in config.pairs])
    names = "|".join(re.escape(kept_name(source.stem)) for _, source in config.pairs)
    clips: list[ScannedClip] = []
    with Store(config.output_dir).opened() as store:
        store.check_index(lambda name: bool(re.fullmatch(rf"(?:{names})(?:_f\d+)?", name)))
        for done, (stream, source) in enumerate(config.pairs):
            progress(done, len(config.pairs), f"reading {printable(stream.name)}")
            try:
                clips.append(clip := _label(config, store, stream, source, counts))
                for note in clip.notes:
                    announce(f"{source}: {note}")
            except InputError as error:
                announce(f"left out: {error.message}")
                failures[str(stream)] = error.message
        progress(len(config.pairs), len(config.pairs), "read")
        for kind, remark in _REMARKS.items():
            if counts[kind]:
                announce(f"{counts[kind]} frames {remark}")
        if not clips:
            first = next(iter(failures.values()))
            raise InputError(f"none of {len(failures)} streams can be used; the first: {first}")
        splits, shared = assign_splits({c.name: {f.luma_hash for f in c.frames} for c in clips}, given)
        pictures = [index_row(clip, f, splits[clip.name], config.licence) for clip in clips for f in clip.frames]
        store.write_index(pictures)
    if advice := missing_splits(splits):
        announce(advice)
    return BuildReport(
        output_dir=str(config.output_dir),
        files=len(config.pairs),
        pictures=len(pictures),
        encodes=0,
        reused=counts["reused"],
        splits=dict(Counter(p.split for p in pictures)),
        failures=failures,
        constant=counts["constant"],
        same_picture=shared,
        seconds=time.monotonic() - start,
    )


_REMARKS = {
    "inter": "are inter-coded and left out: their partitions depend on other frames (--inter takes them)",
    "constant": "are left out: one constant value",
    "delta q": "are labelled with the qindex of the frame, though their blocks vary it",
}


def _label(config: LabelConfig, store: Store, stream: Path, source_path: Path, counts: Counter[str]) -> ScannedClip:
    """Write the frames of one stream, counting by kind what was done with them."""
    encoder, clip, frames = _describe(stream), kept_name(source_path.stem), []
    with config.read.open(source_path) as source:
        for index, frame, coded in paired_frames(stream, source):
            kind = _kind(config, index, frame, coded)
            counts[kind] += 1
            if kind != "labelled":
                continue
            name = picture_name(clip, source, index)
            recipe = Recipe(name, hash_frame(frame), (coded.qindex,), encoder)
            counts["reused"] += store.has_labels(recipe)
            counts["delta q"] += coded.varies_qindex
            store.write_picture(recipe, frame.luma, coded.bsize[None])
            frames.append(ScannedFrame(name, index, hash_plane(frame.luma), recipe.frame_hash))
    if not frames:
        raise InputError(f"{stream}: no frame to label", "inter frames need --inter")
    return ScannedClip(source_path, clip, source.format, tuple(frames), 0, source.notes)


def _kind(config: LabelConfig, index: int, frame: Frame, coded: CodedFrame) -> str:
    if index % config.read.every:
        return "skipped"
    if is_constant(frame.luma):
        return "constant"
    return "labelled" if coded.intra or config.inter else "inter"


def _describe(stream: Path) -> str:
    """What takes the place of encoder and options, which a stream does not tell."""
    with open_regular(stream) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"stream {printable(stream.name)}, SHA-256 {digest}; encoder and options unknown"
