"""What partition maps gain in a real encoder: speed-up and BD-rate against libaom's own presets.

    python cli.py export --fold-bn --c av1part-c
    python -m benchmarks.encoder bundles/default --shared DIR --model av1part-c/model.fp32.av1part

Run again, it goes on where it stopped. Sequences: the val and test pictures of DIR/sample as 4:2:0 at every preset, the
val pictures of DIR/dataset as monochrome at presets 1 to 4, and any Y4M given with --clip; nothing that was trained on.
Each is encoded at every qindex and preset in every variant (benchmarks/encoder_variants.py). Encodes run two at a time,
a process with one thread each; the figures need a machine that does nothing else. Writes STEM.csv (one row an encode),
STEM.json and STEM.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import as_completed
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.encoder_analysis import NORMAL, Row, analyse, curves_of
from benchmarks.encoder_figure import draw
from benchmarks.encoder_rows import Sequence, Unit, run_unit
from benchmarks.encoder_variants import meanings
from benchmarks.speed import RESULTS, result_name
from bundle import MANIFEST_FILE, open_bundle
from console import error_boundary
from data.dataset import open_dataset
from data.encode import local_workers
from encoder.program import PROGRAM
from errors import MissingComponentError, UsageError
from files import sha256_of, write_atomically
from frames.reader import open_frames
from machine import cpu_name, machine

COLUMNS = (
    *("group", "sequence", "width", "height", "frames", "qindex", "cpu_used", "variant", "bytes", "encode_cpu_s"),
    *("predict_cpu_s", "psnr_y", "vmaf", "met", "mean_set", "kept", "single", "undecided"),
)
SAMPLE, MONOCHROME = "sample", "dataset, monochrome"
MONOCHROME_PRESETS = (1, 2, 3, 4)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--qindex", type=_numbers, default=(80, 128, 172, 220))
    parser.add_argument("--cpu-used", type=_numbers, default=(0, 1, 2, 3, 4, 6))
    parser.add_argument("--keep", type=lambda text: tuple(text.split(",")), default=("0.99", "0.98", "0.95"))
    parser.add_argument("--shared", type=Path, help="folder that holds sample/, with yuv420/, and dataset/")
    parser.add_argument("--clip", type=Path, action="append", default=[], help="a Y4M more; may be given again")
    parser.add_argument("--no-pictures", action="store_true", help="only the clips")
    parser.add_argument("--pictures", type=int, help="of each folder, at most")
    parser.add_argument("--model", type=Path, help="the bundle's blob by export --c: its time is that of prediction")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--no-vmaf", action="store_true")
    parser.add_argument("--output", type=Path, help="stem of the results")
    return parser.parse_args(words)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def sequences(options: argparse.Namespace, folder: Path) -> Iterator[Sequence]:
    """The sequences, as Y4M files in `folder`.

    Raises:
        UsageError: if nobody said where the pictures are.
        InputError: if they are not there.
    """
    for path in options.clip:
        with open_frames(path):
            yield Sequence("clips", path.stem, path.resolve())
    if options.no_pictures:
        return
    if options.shared is None:
        raise UsageError("where are the study's pictures?", "--shared DIR, or --no-pictures --clip FILE.y4m")
    shared: Path = options.shared
    sample, dataset = open_dataset(shared / "sample"), open_dataset(shared / "dataset")
    names = [p.name for p in sample.pictures if p.split in ("val", "test")][: options.pictures]
    for name in names:
        yield Sequence(SAMPLE, name, as_y4m(shared / "sample" / "yuv420" / f"{name}.png", folder, packed_420=True))
    for picture in [p for p in dataset.pictures if p.split == "val"][: options.pictures]:
        path = shared / "dataset" / "luma" / f"{picture.name}.png"
        yield Sequence(MONOCHROME, picture.name, as_y4m(path, folder, packed_420=False))


def as_y4m(picture: Path, folder: Path, packed_420: bool) -> Path:
    path = folder / f"{picture.stem}.y4m"
    with open_frames(picture, packed_420=packed_420) as frames:
        tag = {"420": "C420jpeg", "mono": "Cmono"}[frames.format.chroma]
        (frame,) = frames
    header = f"YUV4MPEG2 W{frames.format.width} H{frames.format.height} F25:1 Ip {tag}\nFRAME\n"
    path.write_bytes(header.encode() + b"".join(plane.tobytes() for plane in frame.planes))
    return path


def units(options: argparse.Namespace, found: list[Sequence]) -> list[Unit]:
    """Everything to encode, longest first, so that no process is left with a long one at the end."""
    vmaf = not options.no_vmaf and find_spec("vmaf_torch") is not None
    model = options.model and options.model.resolve()
    every = [
        Unit(sequence, qindex, preset, options.keep, options.bundle.resolve(), model, vmaf)
        for preset in options.cpu_used
        for sequence in found
        for qindex in options.qindex
        if sequence.group != MONOCHROME or preset in MONOCHROME_PRESETS
    ]
    return sorted(every, key=lambda unit: (unit.cpu_used, unit.qindex))


def read_rows(path: Path) -> list[Row]:
    """The rows of whole units that an earlier run wrote."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _key(row: Row) -> tuple[str, str, int, int]:
    """The Unit.key of a row."""
    return row["group"], row["sequence"], int(row["qindex"]), int(row["cpu_used"])


def encode_all(todo: list[Unit], path: Path, jobs: int) -> None:
    """Run the units and append their rows, unit by unit."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file, local_workers(jobs) as (pool, _):
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if is_new:
            writer.writeheader()
        for done, future in enumerate(as_completed([pool.submit(run_unit, unit) for unit in todo]), 1):
            writer.writerows(future.result())
            file.flush()
            print(f"{done} of {len(todo)} units", flush=True)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows of one file have in common.

    Raises:
        MissingComponentError: if the encoder is not built.
    """
    if not PROGRAM.exists():
        raise MissingComponentError(f"{PROGRAM} is not there", "make encoder")
    return {
        "bundle_sha256": sha256_of(options.bundle / MANIFEST_FILE),
        "keep": {share: open_bundle(options.bundle).manifest.threshold(share) for share in options.keep},
        "program_sha256": sha256_of(PROGRAM),
        "prediction": f"C library, {sha256_of(options.model)}" if options.model else "onnxruntime, one thread",
        "hardware": cpu_name(),
    }


def summarise(rows: list[Row], common: dict[str, Any]) -> dict[str, Any]:
    """The JSON result: settings, and for each group the entries of encoder_analysis.analyse, by PSNR-Y and by VMAF."""
    groups: dict[str, Any] = {}
    for group in sorted({row["group"] for row in rows}):
        own = [row for row in rows if row["group"] == group]
        groups[group] = {"psnr_y": analyse(curves_of(own, "psnr_y"))}
        if all(row["vmaf"] not in ("", None) for row in own):
            groups[group]["vmaf"] = analyse(curves_of(own, "vmaf"))
        for entry in groups[group]["psnr_y"]:
            entry |= _sets(own, entry["cpu_used"], entry["variant"])
    date = datetime.now(UTC).date().isoformat()
    return {"date": date, "machine": machine(), "encodes": len(rows), **common, "groups": groups}


def _sets(rows: list[Row], preset: int, variant: str) -> dict[str, float]:
    """Means over encodes of what the masks were."""
    own = [row for row in rows if (int(row["cpu_used"]), row["variant"]) == (preset, variant)]
    if variant == NORMAL:
        return {}
    return {name: sum(float(row[name]) for row in own) / len(own) for name in ("mean_set", "kept", "single")}


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = []
    for group, by_quality in result["groups"].items():
        for quality, entries in by_quality.items():
            lines.append(f"{group}, {entries[0]['sequences']} sequences, {quality}; 95 % intervals over sequences")
            lines.append(f"{'cpu-used':>8} {'variant':12}{'faster':>22}{'BD-rate, %':>24}{'over the ladder, pp':>26}")
            for entry in entries:
                if entry["variant"] != NORMAL:
                    speed, rate, gap = (_with_interval(entry[name]) for name in ("speedup", "bd_rate", "ladder_gap"))
                    lines.append(f"{entry['cpu_used']:8} {entry['variant']:12}{speed:>22}{rate:>24}{gap:>26}")
    return "\n".join(lines)


def _with_interval(values: tuple[float | None, float | None, float | None]) -> str:
    if values[0] is None:
        return "outside"
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def main(words: list[str] | None = None) -> None:
    """Run the study."""
    options = parse(words)
    name = result_name(cpu_name(), f"{datetime.now(UTC):%Y-%m-%d}", "encoder").removesuffix(".json")
    stem = options.output or RESULTS / name
    rows_path, note_path, json_path, png_path = (
        stem.with_name(stem.name + ending) for ending in (".csv", ".settings.json", ".json", ".png")
    )
    common = settings(options)
    if rows_path.exists() and json.loads(note_path.read_text()) != common:
        raise UsageError(
            f"{rows_path} is of another bundle, keep levels, av1part-enc or machine", "name another --output"
        )
    write_atomically(note_path, (json.dumps(common, indent=1) + "\n").encode())
    with tempfile.TemporaryDirectory() as folder:
        every = units(options, list(sequences(options, Path(folder))))
        have = {_key(row) for row in read_rows(rows_path)}
        todo = [unit for unit in every if unit.key not in have]
        print(f"{len(todo)} of {len(every)} units are to be encoded")
        encode_all(todo, rows_path, options.jobs)
    # The file may hold more than was asked for this time.
    asked = {unit.key for unit in every}
    result = summarise([row for row in read_rows(rows_path) if _key(row) in asked], common)
    write_atomically(json_path, (json.dumps(result, indent=1) + "\n").encode())
    by_group = {group: entries["psnr_y"] for group, entries in result["groups"].items()}
    draw(by_group, meanings(options.keep), png_path)
    print(table(result))
    print(f"wrote {stem}.csv, .json and .png")


if __name__ == "__main__":
    with error_boundary():
        main()
