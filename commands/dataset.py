"""`dataset build`, `dataset show` and `dataset blocks`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from commands.options import (
    PATH,
    OneOf,
    WholeNumbers,
    bit_depths,
    borders,
    chroma_formats,
    json_option,
    raw_format,
    splits,
)
from console import ProgressLine, say, say_json
from errors import UsageError


@click.group()
def dataset() -> None:
    """Datasets: labels of real encodes."""


@dataset.command("blocks")
@click.argument("dataset_dir", type=PATH, default=Path("data/sample"))
@click.option("--split", type=OneOf(splits), default="test")
@click.option("--border", type=OneOf(borders), default="0", help="Samples around each block too.")
@click.option("--output", type=PATH, default=Path("blocks.npy"), help="qindex goes to <stem>.qindex.npy beside it.")
@json_option
def blocks(dataset_dir: Path, split: str, border: str, output: Path, as_json: bool) -> None:
    """Write the blocks and qindex of a split as the .npy files that predict reads."""
    from data.dataset import load_split, open_dataset, write_blocks
    from description import task_of_border

    pairs = load_split(open_dataset(dataset_dir), split, task_of_border(int(border)))
    qindex = write_blocks(pairs, output)
    say(f"read {dataset_dir}, split {split}: {len(pairs.pictures)} pictures")
    say(f"wrote {output} and {qindex}: {len(pairs):,} pairs of block and qindex")
    say_json(as_json, {"blocks": str(output), "qindex": str(qindex), "pairs": len(pairs)})


@dataset.command("build")
@click.argument("videos", metavar="[VIDEO]...", nargs=-1, type=PATH)
@click.option("--output-dir", type=PATH, required=True, help="Dataset folder to write, or to go on with.")
@click.option(
    "--qindex",
    type=WholeNumbers("qindex", "80,128,172,220", 0, 255),
    default="80,128,172,220",
    help="Comma-separated; libaom reaches 64 of the 256 values.",
)
@click.option("--cpu-used", type=click.IntRange(0, 9), default=1, help="libaom's preset; never mix two in one dataset.")
@click.option("--every", type=click.IntRange(1), default=1, help="Take each k-th frame of a clip.")
@click.option("--jobs", type=click.IntRange(1), help="Encodes at once.  [default: the number of CPUs]")
@click.option("--scheduler", metavar="ADDRESS", help="Encode on the workers of this Dask scheduler instead.")
@click.option("--split", "split_file", type=PATH, help="CSV of name,split; otherwise by the hash of the name.")
@click.option("--licence", default="", help="What the index says of every picture.")
@click.option("--size", metavar="WIDTHxHEIGHT", help="Of raw YUV.")
@click.option("--chroma", type=OneOf(chroma_formats), default="420", help="Of raw YUV.")
@click.option("--bit-depth", type=OneOf(bit_depths), help="Of raw YUV (8 if not given), 16-bit pictures.")
@click.option("--packed-420", is_flag=True, help="Grey pictures hold Y above U and V.")
@click.option("--bitstream", "bitstreams", type=PATH, multiple=True, help="Label this AV1 stream; encodes nothing.")
@click.option("--source", "sources", type=PATH, multiple=True, help="What the stream was encoded from, in order.")
@click.option("--inter", is_flag=True, help="Take inter frames of a stream too.")
@json_option
def build(
    videos: tuple[Path, ...],
    output_dir: Path,
    qindex: tuple[int, ...],
    cpu_used: int,
    every: int,
    jobs: int | None,
    scheduler: str | None,
    split_file: Path | None,
    licence: str,
    size: str | None,
    chroma: str,
    bit_depth: str | None,
    packed_420: bool,
    bitstreams: tuple[Path, ...],
    sources: tuple[Path, ...],
    inter: bool,
    as_json: bool,
) -> None:
    """Encode every frame of VIDEO... with libaom and keep its block sizes; goes on where an earlier run stopped.

    Takes Y4M, raw YUV, PNG, JPEG, and what PyAV decodes. With --bitstream and --source, streams that exist already
    are labelled instead.
    """
    from data.build import BuildConfig, build_dataset
    from data.label import LabelConfig, label_streams
    from data.scan import ReadOptions
    from encoder.libaom.library import EncodeOptions, ensure_libaom

    if bool(videos) == bool(bitstreams) or len(bitstreams) != len(sources):
        raise UsageError("give VIDEO..., or one --source for each --bitstream", "cli.py dataset build --help")
    depth = int(bit_depth) if bit_depth else None
    read = ReadOptions(raw_format(size, depth or 8, chroma), packed_420, depth, every)
    if bitstreams:
        pairs = tuple(zip(bitstreams, sources, strict=True))
        labelling = LabelConfig(pairs, output_dir, read, inter, split_file, licence)
        ensure_libaom(say)
        report = label_streams(labelling, ProgressLine(), say)
    else:
        jobs, options = jobs or len(os.sched_getaffinity(0)), EncodeOptions(cpu_used)
        config = BuildConfig(videos, output_dir, qindex, options, read, jobs, scheduler, split_file, licence)
        if scheduler is None:
            ensure_libaom(say)
        report = build_dataset(config, ProgressLine(), say)
    say(report.summary())
    say_json(as_json, report.to_json())
    report.raise_failures()


@dataset.command("show")
@click.argument("dataset_dir", type=PATH, default=Path("data/sample"))
@click.option("--picture", "names", multiple=True, help="Draw these pictures.  [default: the first of each split]")
@click.option("--output-dir", type=PATH, help="Where the PNGs go.  [default: DATASET_DIR/show]")
@json_option
def show(dataset_dir: Path, names: tuple[str, ...], output_dir: Path | None, as_json: bool) -> None:
    """Count the classes of a dataset, and draw its pictures with their partition trees."""
    from data.dataset import open_dataset
    from data.show import class_rows, class_table, rows_as_json, write_histogram, write_overlays

    opened = open_dataset(dataset_dir)
    pictures = opened.named(names) if names else opened.first_of_splits()
    rows = class_rows(opened)
    say(f"read {dataset_dir}: {len(opened.pictures)} pictures")
    say(class_table(rows))
    target = output_dir or dataset_dir / "show"
    files = [target / "classes.png", *(path for p in pictures for path in write_overlays(opened, p, target))]
    write_histogram(rows, files[0])
    for path in files:
        say(f"wrote {path}")
    say_json(as_json, {"classes": rows_as_json(rows), "files": [str(path) for path in files]})
