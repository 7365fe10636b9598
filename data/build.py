"""Build a dataset: read the input once, encode every frame at every qindex, write pictures, labels and the index.

scan (data/scan.py) -> splits (data/split.py) -> encodes (data/encode.py) -> folder (data/store.py)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Picture
from data.encode import EncodedFrame, cluster_workers, encode_frame, local_workers
from data.names import printable
from data.scan import ReadOptions, ScannedClip, ScannedFrame, hash_frame, scan_files
from data.split import assign_splits, missing_splits, read_split_file
from data.store import Recipe, Store
from encoder.libaom.library import EncodeOptions, cq_of_qindex
from errors import InputError, ToolkitError, UsageError
from frames.frame import Frame
from progress import Announce, Progress

DEFAULT_QINDEX = (80, 128, 172, 220)


@dataclass(frozen=True)
class BuildConfig:
    """One dataset build.

    Attributes:
        inputs: files of frames.
        output_dir: the dataset folder to write, or to go on with.
        qindex: of the encodes; each frame is encoded at all of them.
        encode: the encoder's preset.
        read: how the files are read.
        jobs: encodes at once on this machine.
        scheduler: address of a Dask scheduler whose workers encode instead.
        split_file: CSV of name and split; None: by the hash of the name.
        licence: what the index says of every picture.

    Raises:
        UsageError: if libaom cannot encode at a qindex, or a number is out of range.
    """

    inputs: tuple[Path, ...]
    output_dir: Path
    qindex: tuple[int, ...] = DEFAULT_QINDEX
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    read: ReadOptions = field(default_factory=ReadOptions)
    jobs: int = 1
    scheduler: str | None = None
    split_file: Path | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.inputs or not self.qindex or self.jobs < 1 or self.read.every < 1:
            raise UsageError("a build needs at least one file, one qindex, one job and a step of 1 or more")
        for qindex in self.qindex:
            cq_of_qindex(qindex)
        object.__setattr__(self, "qindex", tuple(sorted(set(self.qindex))))


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        output_dir: the dataset.
        files: how many were given.
        pictures: how many the index names.
        encodes: how many this run made.
        reused: how many an earlier run had made.
        splits: pictures by split.
        failures: message by path of the files that were left out.
        constant: frames left out since their luma is one value.
        same_picture: pairs of clips that share a picture; they went to the same split.
        seconds: wall-clock time.
    """

    output_dir: str
    files: int
    pictures: int
    encodes: int
    reused: int
    splits: dict[str, int]
    failures: dict[str, str]
    constant: int
    same_picture: list[tuple[str, str]]
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        splits = ", ".join(f"{n} {split}" for split, n in sorted(self.splits.items()))
        left_out = f"; left out: {len(self.failures)} of {self.files} files, {self.constant} constant frames"
        return (
            f"wrote {self.output_dir}: {self.pictures} pictures ({splits}), {self.encodes} encodes in "
            f"{self.seconds:.1f} s, {self.reused} kept from before{left_out}"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def raise_failures(self) -> None:
        """Say by an error that files were left out.

        Raises:
            InputError: if there were any.
        """
        if self.failures:
            first = next(iter(self.failures.values()))
            raise InputError(
                f"{len(self.failures)} of {self.files} files left out; the first: {first}",
                "the dataset holds all others; mend these and run again",
            )


def build_dataset(config: BuildConfig, progress: Progress, announce: Announce) -> BuildReport:
    """Build a dataset, or go on with one that was interrupted; files that cannot be read are left out.

    Raises:
        InputError: if no file can be used, names collide, bit depths mix, or splits contradict each other.
        UsageError: if the folder holds something else already.
        OutputError: if the folder cannot be written.
        MissingComponentError: if libaom, PyAV or Dask is needed and not there.
    """
    start = time.monotonic()
    given = read_split_file(config.split_file) if config.split_file else None
    clips, failures = scan_files(config.inputs, config.read, progress)
    for error in failures.values():
        announce(f"left out: {error.message}")
    for clip in clips:
        for note in clip.notes:
            announce(f"{clip.path}: {note}")
    if not clips:
        first = next(iter(failures.values()))
        raise InputError(f"none of {len(failures)} files can be used; the first: {first.message}", first.hint)
    splits, pairs = assign_splits({c.name: {f.luma_hash for f in c.frames} for c in clips}, given)
    for one, other in pairs:
        announce(f"'{one}' and '{other}' hold the same picture: both go to {splits[one]}")
    with Store(config.output_dir).opened() as store:
        store.check_index({frame.name for clip in clips for frame in clip.frames}.__contains__)
        plan = [_plan(config, store, clip) for clip in clips]
        encodes = sum(len(missing) for clip in plan for missing in clip.missing.values())
        total = len(config.qindex) * sum(len(clip.frames) for clip in clips)
        announce(f"files read: {len(clips)}; encodes: {total}, of which done before: {total - encodes}")
        failures |= _encode(config, store, plan, encodes, progress, announce)
        used = [clip for clip in clips if str(clip.path) not in failures]
        pictures = [index_row(clip, f, splits[clip.name], config.licence) for clip in used for f in clip.frames]
        if not pictures:
            raise InputError(f"no file could be encoded; the first: {next(iter(failures.values())).message}")
        store.write_index(pictures)
    if advice := missing_splits({clip.name: splits[clip.name] for clip in used}):
        announce(advice)
    return BuildReport(
        output_dir=str(config.output_dir),
        files=len(config.inputs),
        pictures=len(pictures),
        encodes=encodes,
        reused=total - encodes,
        splits=dict(Counter(p.split for p in pictures)),
        failures={path: error.message for path, error in failures.items()},
        constant=sum(clip.constant for clip in clips),
        same_picture=pairs,
        seconds=time.monotonic() - start,
    )


def index_row(clip: ScannedClip, frame: ScannedFrame, split: str, licence: str) -> Picture:
    """The row of index.csv for one frame."""
    size = clip.format
    return Picture(frame.name, split, printable(clip.path.name), size.width, size.height, size.bit_depth, licence)


@dataclass(frozen=True)
class _PlannedClip:
    """What is left to do for one file: recipe and missing qindex by number of the frame."""

    clip: ScannedClip
    recipes: dict[int, Recipe]
    missing: dict[int, list[int]]


def _plan(config: BuildConfig, store: Store, clip: ScannedClip) -> _PlannedClip:
    encoder = config.encode.describe(clip.format)
    recipes = {f.index: Recipe(f.name, f.frame_hash, config.qindex, encoder) for f in clip.frames}
    open_recipes = {index: recipe for index, recipe in recipes.items() if not store.has_labels(recipe)}
    missing = {index: store.missing_parts(recipe) for index, recipe in open_recipes.items()}
    return _PlannedClip(clip, open_recipes, missing)


def _encode(
    config: BuildConfig,
    store: Store,
    plan: Iterable[_PlannedClip],
    encodes: int,
    progress: Progress,
    announce: Announce,
) -> dict[str, ToolkitError]:
    """Make all missing encodes; returns what went wrong by path."""
    todo = [clip for clip in plan if clip.recipes]
    if not todo:
        return {}
    workers = cluster_workers(config.scheduler) if config.scheduler else local_workers(config.jobs)
    with workers as (executor, slots):
        where = f"on the Dask cluster at {config.scheduler}" if config.scheduler else "on this machine"
        announce(f"encoding with {slots} at once {where}")
        pipeline = _Pipeline(config, store, executor, 2 * slots, encodes, progress)
        for clip in todo:
            pipeline.feed(clip)
        pipeline.drain()
    return pipeline.failures


@dataclass(frozen=True)
class _Task:
    """One encode on its way."""

    path: str
    recipe: Recipe
    qindex: int


@dataclass
class _Pipeline:
    """Feeds encodes to the workers, a few ahead of what they can do, and stores what comes back."""

    config: BuildConfig
    store: Store
    executor: Executor
    window: int
    total: int
    progress: Progress
    done: int = 0
    pending: dict[Future[EncodedFrame], _Task] = field(default_factory=dict)
    luma: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    failures: dict[str, ToolkitError] = field(default_factory=dict)

    def feed(self, planned: _PlannedClip) -> None:
        """Hand in every missing encode of one file."""
        clip = planned.clip
        try:
            with self.config.read.open(clip.path) as source:
                for index, frame in self.config.read.frames(source):
                    if (recipe := planned.recipes.get(index)) is not None:
                        self._feed_frame(clip, recipe, planned.missing[index], frame)
        except InputError as error:
            self.failures[str(clip.path)] = error

    def _feed_frame(self, clip: ScannedClip, recipe: Recipe, missing: list[int], frame: Frame) -> None:
        if hash_frame(frame) != recipe.frame_hash:
            raise InputError(f"{clip.path} changed while it was being read")
        self.luma[recipe.name] = frame.luma
        if not missing:
            self._finish(recipe)
        for qindex in missing:
            while len(self.pending) >= self.window:
                self._collect()
            task = _Task(str(clip.path), recipe, qindex)
            job = self.executor.submit(encode_frame, frame, clip.format, qindex, self.config.encode)
            self.pending[job] = task

    def drain(self) -> None:
        """Wait for everything that was handed in."""
        while self.pending:
            self._collect()

    def _collect(self) -> None:
        finished, _ = wait(self.pending, return_when=FIRST_COMPLETED)
        for job in finished:
            task = self.pending.pop(job)
            try:
                self.store.write_part(task.recipe, task.qindex, job.result())
                self._finish(task.recipe)
            except (BrokenExecutor, CancelledError) as error:
                raise ToolkitError(
                    f"a worker died at '{task.recipe.name}', qindex {task.qindex}: {error}",
                    "out of memory? run again with fewer jobs; finished encodes are kept",
                ) from None
            except ToolkitError as error:
                # Only what concerns this picture alone; a full disk or a missing library stops the build.
                if type(error) not in (ToolkitError, InputError):
                    raise
                self.failures[task.path] = error
            self.done += 1
            self.progress(self.done, self.total, f"{task.recipe.name} at qindex {task.qindex}")

    def _finish(self, recipe: Recipe) -> None:
        if self.store.finish(recipe, self.luma[recipe.name]):
            del self.luma[recipe.name]
