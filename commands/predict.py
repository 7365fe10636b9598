"""`predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.bundles import BUNDLE_HELP, bundle_or_default
from commands.options import (
    PATH,
    FiniteFloat,
    OneOf,
    bit_depths,
    chroma_formats,
    json_option,
    raw_format,
    run_packages_option,
    whole_number,
)
from console import ProgressLine, say, say_json
from errors import UsageError

if TYPE_CHECKING:
    from frames.frame import FrameFormat
    from infer.predict import MapTask
    from infer.source import BlockSource


def _runtimes() -> Iterable[str]:
    from infer.runtimes import RUNTIMES

    return "auto", *RUNTIMES


def _precisions() -> Iterable[str]:
    from infer.runtimes import RUNTIMES

    return dict.fromkeys(precision for runtime in RUNTIMES.values() for precision in runtime.precisions)


@click.command()
@click.argument("source", metavar="BLOCKS.npy|FRAMES", type=PATH)
@click.option("--bundle", "bundle_dir", type=PATH, help=BUNDLE_HELP)
@click.option("--qindex", default="128", help="One value, or a .npy of one for each block.")
@click.option("--bit-depth", type=OneOf(bit_depths), help="Of a .npy or raw frames (8 if not given), 16-bit pictures.")
@click.option("--size", help="WIDTHxHEIGHT of raw frames.")
@click.option("--chroma", type=OneOf(chroma_formats), default="420", help="Of raw frames.")
@click.option(
    "--runtime", type=OneOf(_runtimes), default="auto", help="auto takes the fastest that runs here, and says which."
)
@click.option("--precision", type=OneOf(_precisions), default="fp32")
@click.option("--output", type=PATH, help="Default: <stem>.partitions.npz beside the input; .apm: a partition map.")
@click.option("--keep", help="Of a map: share of true types to keep, such as 0.98, by the manifest's thresholds.")
@click.option("--threshold", type=FiniteFloat(0, 1), help="Of a map, in place of --keep: the least probability.")
@click.option("--map-probability", is_flag=True, help="Of a map: probabilities beside the masks.")
@click.option("--check-parity", is_flag=True, help="First compare the runtime with PyTorch on these blocks.")
@run_packages_option
@click.option("--verbose", is_flag=True, help="Say of each runtime that auto passed over why.")
@json_option
def predict(
    source: Path,
    bundle_dir: Path | None,
    qindex: str,
    bit_depth: str | None,
    size: str | None,
    chroma: str,
    runtime: str,
    precision: str,
    output: Path | None,
    keep: str | None,
    threshold: float | None,
    map_probability: bool,
    check_parity: bool,
    run_packages: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Predict the partition of every 16x16 block.

    BLOCKS.npy holds raw samples [N, 16, 16] or [N, 1, 16, 16], uint8 or uint16, or 32 in place of 16 for a bundle that
    sees a border; FRAMES is a Y4M, raw YUV, picture or video, whose blocks are cut here. An --output that ends in .apm
    is a partition map for encoders; `-` writes one to stdout, frame by frame, and all messages to stderr.
    """
    from infer.predict import PredictTask, predict_source

    blocks, frames, with_border = _open(source, size, int(bit_depth) if bit_depth else None, chroma)
    target = output or source.with_suffix(".partitions.npz")
    if any(os.path.exists(p) and os.path.exists(target) and os.path.samefile(p, target) for p in (source, qindex)):
        raise UsageError(f"--output {target} is an input", "name another file: it would be overwritten")
    map_task = _map_task(frames, target, qindex, keep, threshold, map_probability)
    to_stdout = map_task is not None and map_task.to_stdout
    if to_stdout and as_json:
        raise UsageError("--output - and --json both want stdout", "name a file")
    announce = partial(click.echo, err=True) if to_stdout else say
    # Of the shipped bundle that sees a border there is no file but fp32.
    bundle = bundle_or_default(bundle_dir, announce, with_border and precision == "fp32")
    task = PredictTask(bundle, target, qindex, runtime, precision, check_parity, map_task, run_packages, verbose)
    say_json(as_json, predict_source(blocks, task, ProgressLine(), announce).to_json())


class _Input(NamedTuple):
    """What there is to predict.

    Attributes:
        blocks: all of them.
        frames: the format of the frames that they are cut from; None for blocks by themselves.
        with_border: whether a border is to be had around them.
    """

    blocks: BlockSource
    frames: FrameFormat | None
    with_border: bool


def _open(source: Path, size: str | None, bit_depth: int | None, chroma: str) -> _Input:
    raw = raw_format(size, bit_depth or 8, chroma)
    if source.suffix.lower() == ".npy" or (raw is None and not source.suffix):
        from description import BLOCKS
        from infer.block_file import open_blocks

        if raw is not None:
            raise UsageError(f"--size is of raw video, and {source} holds blocks", "leave it out")
        blocks = open_blocks(source, bit_depth or 8)
        return _Input(blocks, None, blocks.side > BLOCKS.input.side)
    from data.frame_blocks import FrameBlocks

    frames = FrameBlocks(source, raw, bit_depth)
    return _Input(frames, frames.format, True)


def _map_task(
    frames: FrameFormat | None,
    target: Path,
    qindex: str,
    keep: str | None,
    threshold: float | None,
    probability: bool,
) -> MapTask | None:
    """The partition map to write; None if --output is none."""
    from encoder.partition_map import SUFFIX, MapFormat
    from infer.predict import MapTask

    to_stdout = str(target) == "-"
    if not to_stdout and target.suffix.lower() != SUFFIX:
        if keep is not None or threshold is not None or probability:
            options = "--keep, --threshold and --map-probability"
            raise UsageError(f"{options} are of a partition map", f"write one with --output FILE{SUFFIX}")
        return None
    if keep is not None and threshold is not None:
        raise UsageError("a partition map has one threshold, by --keep or by --threshold", "give one of the two")
    if frames is None:
        raise UsageError("a partition map is of frames, and this input is blocks", "give a Y4M, raw YUV or video")
    number = whole_number(qindex)
    if number is None or number > 255:
        raise UsageError(f"a partition map has one qindex, and --qindex is {qindex}", "give a number from 0 to 255")
    form = MapFormat(frames.width, frames.height, number, probability)
    return MapTask(form, keep or "0.98", threshold, to_stdout)
