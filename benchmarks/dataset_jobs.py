"""How much faster a dataset build gets with more jobs: builds from the embedded sample, with one job and with more by
turns, best of each. Run on an idle machine:

    python -m benchmarks.dataset_jobs [--jobs 2] [--rounds 3] [--pictures 6]
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click

from data.build import BuildConfig, build_dataset
from data.dataset import SAMPLE_DIR


def build_seconds(inputs: tuple[Path, ...], jobs: int) -> float:
    """Wall-clock seconds of one build at four qindex, cpu-used 1, start of the processes included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_dataset(BuildConfig(inputs, Path(folder), jobs=jobs), lambda *_: None, lambda _: None)
        return time.perf_counter() - start


@click.command()
@click.option("--jobs", type=click.IntRange(2), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--pictures", type=click.IntRange(1), default=6, show_default=True)
def main(jobs: int, rounds: int, pictures: int) -> None:
    """Time builds with 1 and with JOBS jobs, and print the table and one line of JSON."""
    inputs = tuple(sorted((SAMPLE_DIR / "luma").glob("*.png"))[:pictures])
    seconds: dict[int, list[float]] = {1: [], jobs: []}
    for _ in range(rounds):
        for count, times in seconds.items():
            times.append(build_seconds(inputs, count))
            click.echo(f"{count} jobs: {4 * len(inputs)} encodes in {times[-1]:.1f} s")
    ratio = min(seconds[1]) / min(seconds[jobs])
    click.echo(f"{jobs} jobs are {ratio:.2f}x as fast as 1")
    click.echo(json.dumps({"seconds": seconds, "ratio": ratio}))


if __name__ == "__main__":
    main()
