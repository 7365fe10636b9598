"""What it costs libaom to try each partition type at every 16x16 node, SPLIT with its 8x8 nodes searched and without.

    python -m benchmarks.partition_cost --shared DIR

Two val pictures of DIR/sample/yuv420 are encoded with NONE alone at every whole node, and with NONE and one type; the
difference in CPU seconds is that type's. Each is the faster of two encodes, one process, one thread; run it on a
machine that does nothing else (2 minutes). Writes results/partition_cost_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence as Many
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoder import as_y4m
from benchmarks.speed import RESULTS, result_name
from console import error_boundary
from encoder.libaom.library import cq_of_qindex
from encoder.masks import map_of_whole_nodes
from encoder.partition_map import MapFormat, write_partition_map
from encoder.program import encode_file
from errors import InputError
from files import write_atomically
from frames.reader import open_frames
from machine import cpu_name, machine
from partition import NODE_SIZE, PARTITION_NAMES, Partition

PICTURES = ("skimage_chelsea", "skimage_coffee")
QINDEX = 128
WHOLE = "SPLIT, whole"
REPEATS = 2


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds sample/yuv420")
    parser.add_argument("--cpu-used", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--pictures", nargs="+", default=list(PICTURES))
    parser.add_argument("--output", type=Path, help="in place of the file in benchmarks/results")
    return parser.parse_args(words)


def seconds_of(source: Path, folder: Path, partition: Partition, cpu_used: int, options: Many[str] = ()) -> float:
    """CPU seconds of the fastest of REPEATS encodes with NONE and one type at every whole node of a Y4M picture."""
    with open_frames(source) as frames:
        width, height = frames.format.width, frames.format.height
    masks = np.full((1, height // NODE_SIZE, width // NODE_SIZE), 1 | 1 << partition, np.uint16)
    path = folder / "types.apm"
    write_partition_map(path, map_of_whole_nodes(MapFormat(width, height, QINDEX), masks))
    words = [
        "--cq-level",
        str(cq_of_qindex(QINDEX)),
        "--cpu-used",
        str(cpu_used),
        "--partition-map",
        str(path),
        *options,
    ]
    return min(encode_file(source, folder / "types.ivf", words).encode_cpu_s for _ in range(REPEATS))


def relative_costs(seconds: dict[str, float]) -> dict[str, float]:
    """Extra seconds over NONE alone by type, in units of the mean of HORZ and VERT.

    Args:
        seconds: of an encode with NONE and each type, by its name; "NONE" with NONE alone, WHOLE with SPLIT and its
            8x8 nodes searched.
    """
    extra = {name: value - seconds["NONE"] for name, value in seconds.items() if name != "NONE"}
    unit = (extra["HORZ"] + extra["VERT"]) / 2
    return {name: value / unit for name, value in extra.items()}


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """For each preset: seconds of all pictures together by type, and relative_costs of them.

    Raises:
        InputError: if one of the pictures is not there.
    """
    pictures = [options.shared / "sample" / "yuv420" / f"{name}.png" for name in options.pictures]
    if not all(picture.is_file() for picture in pictures):
        raise InputError(f"{options.shared / 'sample' / 'yuv420'} lacks a picture of {', '.join(options.pictures)}")
    sources = [as_y4m(picture, folder, packed_420=True) for picture in pictures]
    rows = []
    for preset in options.cpu_used:
        seconds = {t.name: sum(seconds_of(s, folder, t, preset) for s in sources) for t in Partition}
        seconds[WHOLE] = sum(seconds_of(s, folder, Partition.SPLIT, preset, ["--whole-split"]) for s in sources)
        rows.append({"cpu_used": preset, "seconds": seconds, "relative": relative_costs(seconds)})
        print(preset, " ".join(f"{name} {value:.2f}" for name, value in rows[-1]["relative"].items()), flush=True)
    return rows


def main(words: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parse(words)
    now = datetime.now(UTC)
    output = options.output or RESULTS / result_name(cpu_name(), f"{now:%Y-%m-%d}", "partition_cost")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    mean = {name: float(np.mean([row["relative"][name] for row in rows])) for name in (*PARTITION_NAMES[1:], WHOLE)}
    result = {
        "date": now.date().isoformat(),
        "machine": machine(),
        "pictures": options.pictures,
        "qindex": QINDEX,
        "rows": rows,
        "mean_relative": mean,
    }
    write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
    print("mean", " ".join(f"{name} {value:.2f}" for name, value in mean.items()))
    print(f"wrote {output}")


if __name__ == "__main__":
    with error_boundary():
        main()
