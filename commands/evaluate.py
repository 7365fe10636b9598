"""`evaluate`, `verify` and `bench`: what a run or bundle is worth, whether it is what was trained, how fast it is."""

from __future__ import annotations

from pathlib import Path

import click

from commands.bundles import bundle_or_default
from commands.options import PATH, OneOf, WholeNumbers, dataset_option, json_option, run_packages_option, splits
from console import ProgressLine, say, say_json


@click.command()
@click.argument("run_or_bundle", type=PATH)
@dataset_option()
@click.option("--split", type=OneOf(splits), default="val")
@click.option("--output", type=PATH, help="PNG of the confusion matrix; <stem>.candidates.png beside it.")
@click.option("--overlay", type=(str, PATH), metavar="PICTURE PNG", help="Draw one picture's partitions instead.")
@json_option
def evaluate(
    run_or_bundle: Path,
    dataset_dir: Path,
    split: str,
    output: Path | None,
    overlay: tuple[str, Path] | None,
    as_json: bool,
) -> None:
    """Judge a run or a bundle on a split of a dataset, beside always answering NONE."""
    from evaluate.report import evaluate_artefact, table

    if overlay is not None:
        return _draw_overlay(run_or_bundle, dataset_dir, *overlay, as_json)

    report = evaluate_artefact(run_or_bundle, dataset_dir, split, ProgressLine(), say)
    say(table(report))
    if output is not None:
        from train.curves import save_report

        title, beside = f"{split} split, covered counted as NONE", output.with_suffix(".candidates.png")
        say(f"wrote {' and '.join(map(str, save_report(report, title, output, beside)))}")
    return say_json(as_json, {"artefact": str(run_or_bundle), "split": split, "evaluation": report})


def _draw_overlay(artefact: Path, dataset_dir: Path, picture: str, png: Path, as_json: bool) -> None:
    from evaluate.overlay import write_overlay

    write_overlay(artefact, dataset_dir, picture, png, say)
    say_json(as_json, {"artefact": str(artefact), "overlay": str(png)})


@click.command()
@click.argument("bundle_dir", metavar="[BUNDLE]", type=PATH, required=False)
@click.option("--output-dir", type=PATH, help="Where to draw <file>.<runtime>.parity.png.")
@run_packages_option
@json_option
def verify(bundle_dir: Path | None, output_dir: Path | None, run_packages: bool, as_json: bool) -> None:
    """Check a bundle's hashes, then its parity on this machine beside the export's; needs no torch."""
    from infer.verify import verify_bundle

    verification = verify_bundle(bundle_or_default(bundle_dir), say, output_dir, run_packages)
    say_json(as_json, verification.to_json())
    verification.raise_failures()


@click.command()
@click.argument("bundle_dir", metavar="[BUNDLE]", type=PATH, required=False)
@click.option(
    "--batch",
    type=WholeNumbers("batch sizes", "1024,8160", 1),
    help="Comma-separated batch sizes.  [default: the blocks of a 1080p frame]",
)
@click.option("--output", type=PATH, help="Default: benchmarks/results/speed_<hardware>_<yyyymm>.json.")
@json_option
def bench(bundle_dir: Path | None, batch: tuple[int, ...] | None, output: Path | None, as_json: bool) -> None:
    """Time the runtimes of a bundle beside PyTorch eager of the unfolded model, in one run."""
    from benchmarks.speed import run_benchmark

    say_json(as_json, run_benchmark(bundle_or_default(bundle_dir), batch or (), output, say))
