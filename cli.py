"""The command line: parse, build a configuration, make one call. Heavy imports stay inside the commands; errors become
exit codes in console.py (docs/DESIGN.md, Command line)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from console import ErrorBoundary, ProgressLine
from errors import UsageError

RUNTIME_NAMES = (
    "auto",
    "torch",
    "fused",
    "aotinductor",
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "tensorrt",
    "tensorrt-rtx",
)
TRUNK_NAMES = ("tiny", "compact", "accurate", "resnet18")
LOSS_NAMES = ("cross-entropy", "focal", "cb-focal", "poly", "asymmetric", "label-smoothing")
EXPERIMENT_NAMES = ("bn", "adapter-reduction", "adapters", "loss", "augmentation")
DEFAULT_BUNDLE = Path("bundles/default")
BUNDLE_HELP = (
    f"Default: {DEFAULT_BUNDLE} if it is there, else models/compact, for frames in fp32 models/accurate-context."
)
SHIPPED_MODELS = Path(__file__).resolve().parent / "models"
_ENGINE_OPTIONS = (
    "engine_input",
    "min_batch",
    "opt_batch",
    "max_batch",
    "compute_capability",
    "timing_cache",
    "version_compatible",
    "hardware_compatible",
)


def _say(text: str) -> None:
    click.echo(("\r\033[K" if sys.stderr.isatty() and sys.stdout.isatty() else "") + text)


def _finish(as_json: bool, result: dict[str, Any]) -> None:
    if as_json:
        click.echo(json.dumps(result))


def _config(build: Callable[[], Any]) -> Any:
    try:
        return build()
    except ValueError as error:
        raise UsageError(str(error), "cli.py COMMAND --help lists what each option takes") from None


def _was_given(context: click.Context, parameter: click.Parameter) -> bool:
    return context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE


def _bundle(named: Path | None, say: Callable[[str], None] = _say, with_border: bool = False) -> Path:
    """The bundle that was named; else the default one; else, where nothing was exported, a shipped one."""
    shipped = SHIPPED_MODELS / ("accurate-context" if with_border else "compact")
    if named is not None or DEFAULT_BUNDLE.exists() or not shipped.exists():
        return named or DEFAULT_BUNDLE
    say(f"no bundle named, and no {DEFAULT_BUNDLE} here: the shipped {shipped}")
    return shipped


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
folder = click.Path(path_type=Path)


@click.group(
    cls=ErrorBoundary,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand anywhere.")
@click.version_option(package_name="av1-partition-toolkit", prog_name="av1-partition-toolkit")
def main(debug: bool) -> None:
    """Train a predictor of AV1 partitions, export it exactly, predict with it at speed."""


@main.command()
@click.option("--dataset-dir", type=folder, default=Path("data/sample"), help="Dataset folder.")
@click.option("--output-dir", type=folder, default=Path("runs/default"), help="Run folder to write.")
@click.option("--trunk", type=click.Choice(TRUNK_NAMES), help="Default: compact, or the checkpoint's.")
@click.option(
    "--border",
    type=click.Choice(["0", "8"]),
    help="Samples around a block seen too.  [default: 0, or the checkpoint's]",
)
@click.option("--qindex-input", type=click.Choice(["film", "none"]), default="film", help="How the model sees qindex.")
@click.option("--stage", type=click.Choice(["all", "1", "2", "3"]), help="Default: all; 2 and 3 with a checkpoint.")
@click.option("--stage1-checkpoint", type=folder, help="Run whose earlier stages to start from.")
@click.option("--trunk-weights", type=folder, help="Safetensors file to start the trunk from.")
@click.option("--epochs", type=click.IntRange(1), default=3, help="At most, for each stage.")
@click.option("--passes", type=click.IntRange(1), default=1, help="Through the data in an epoch of stage 1.")
@click.option("--batch-size", type=click.IntRange(2), default=128)
@click.option("--adapter-reduction", type=click.IntRange(1), default=4, help="Width of the trunk over the adapters'.")
@click.option("--adapters", type=click.Choice(["series", "parallel", "lora", "none"]), default="series")
@click.option("--bn-mode", type=click.Choice(["frozen", "train"]), default="frozen", help="train: the seed's bug.")
@click.option("--stage1-loss", type=click.Choice(["joint", "binary"]), help="Default: joint; binary for resnet18.")
@click.option(
    "--loss", type=click.Choice(["cross-entropy", "focal", "cb-focal", "poly", "asymmetric", "label-smoothing"])
)
@click.option("--focal-gamma", type=click.FloatRange(0), default=2.0)
@click.option("--sampler", type=click.Choice(["natural", "balanced"]), default="natural", help="In stages 2 and 3.")
@click.option("--augmentation", type=click.Choice(["flips", "contrast", "mixup", "cutmix", "none"]), default="flips")
@click.option("--schedule", type=click.Choice(["cosine", "plateau"]), default="cosine")
@click.option("--trunk-lr", type=float, default=1e-3)
@click.option("--lr", type=float, default=1e-3, help="Of heads, adapters and the qindex embedding.")
@click.option("--weight-decay", type=float, default=0.01)
@click.option("--average", type=float, default=0.0, help="Decay per step of an average of the weights, such as 0.999.")
@click.option("--autocast", type=click.Choice(["none", "bf16"]), default="none", help="bf16: for GPUs.")
@click.option("--more-train", type=folder, multiple=True, help="Further dataset whose train pictures count too.")
@click.option("--teacher", type=folder, multiple=True, help="Run whose probabilities to learn beside the labels.")
@click.option("--distillation", type=float, help="How much they count, 0-1.  [default: 0.7 with a teacher]")
@click.option("--calibration-pictures", type=int, default=0, help="Train pictures set aside to calibrate on.")
@click.option("--select", type=click.Choice(["loss", "f1"]), default="loss", help="What the kept epoch is best in.")
@click.option("--patience", type=click.IntRange(1), default=15, help="Epochs without gain before a stage stops.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=42)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@json_option
def train(
    dataset_dir: Path,
    output_dir: Path,
    trunk: str | None,
    border: str | None,
    qindex_input: str,
    stage: str | None,
    stage1_checkpoint: Path | None,
    trunk_weights: Path | None,
    adapter_reduction: int,
    adapters: str,
    stage1_loss: str | None,
    loss: str | None,
    device: str,
    more_train: tuple[Path, ...],
    teacher: tuple[Path, ...],
    distillation: float | None,
    resume: bool,
    as_json: bool,
    **plain: Any,
) -> None:
    """Train a model on a dataset (by default the embedded sample) in three stages."""
    from evaluate.report import table
    from train.checkpoint import checkpoint_model
    from train.config import TrainConfig, TrainTask
    from train.model import ModelConfig
    from train.run import train_run

    if stage1_checkpoint is not None:
        earlier = checkpoint_model(stage1_checkpoint)
        trunk, border = trunk or earlier.trunk, border or str(earlier.border)
    trunk = trunk or "compact"
    stages = {"all": (1, 2, 3), "1": (1,), "2": (2,), "3": (3,), None: (2, 3) if stage1_checkpoint else (1, 2, 3)}[
        stage
    ]
    config = _config(
        lambda: TrainConfig(
            model=ModelConfig(trunk, qindex_input, adapter_reduction, adapters, border=int(border or 0)),
            stages=stages,
            stage1_loss=stage1_loss or ("binary" if trunk == "resnet18" else "joint"),
            loss=loss or "cross-entropy",
            distillation=distillation if distillation is not None else 0.7 if teacher else 0.0,
            **plain,
        )
    )
    task = TrainTask(
        config, dataset_dir, output_dir, stage1_checkpoint, trunk_weights, resume, device, teacher, more_train
    )
    info = train_run(task, ProgressLine(), _say)
    if info:
        _say(table(info["evaluation"]))
        _finish(as_json, {"output_dir": str(output_dir), "evaluation": info["evaluation"]})


@main.command()
@click.argument("name", metavar="NAME", type=click.Choice([*EXPERIMENT_NAMES, "all"]))
@click.option("--dataset-dir", type=folder, default=Path("data/sample"))
@click.option("--output-dir", type=folder, default=Path("runs/experiments"), help="Finished runs; they are kept.")
@click.option("--results-dir", type=folder, default=Path("benchmarks/results"), help="Where JSON and PNG go.")
@click.option("--nodes", type=click.IntRange(1), default=100_000, help="Of train, and of val; the same for all runs.")
@click.option("--stage1-epochs", type=click.IntRange(1), default=6)
@click.option("--epochs", type=click.IntRange(1), default=10, help="At most, of stage 2.")
@click.option("--batch-size", type=click.IntRange(2), default=1024)
@click.option("--seeds", type=click.IntRange(2, 20), help="[default: 5 for bn, 3 for the others]")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Runs at once, on one device.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--finished-only", is_flag=True, help="Run nothing: tables of the seeds that are finished.")
@json_option
def experiment(
    name: str,
    results_dir: Path,
    seeds: int | None,
    jobs: int,
    finished_only: bool,
    as_json: bool,
    **plain: Any,
) -> None:
    """Compare the arms of an experiment over several seeds, paired: a table with intervals, JSON and PNG.

    NAME is bn, adapter-reduction, adapters, loss, augmentation, or all. Finished runs are kept, and not run again.
    """
    from train.experiments.arms import ExperimentSettings
    from train.experiments.command import run_experiments

    settings = _config(lambda: ExperimentSettings(**plain))
    names = EXPERIMENT_NAMES if name == "all" else (name,)
    found = run_experiments(names, settings, seeds, jobs, finished_only, results_dir, ProgressLine(), _say)
    _finish(as_json, {"experiments": found})


@main.command()
@click.argument("run_or_bundle", type=folder)
@click.option("--dataset-dir", type=folder, default=Path("data/sample"))
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val")
@click.option("--output", type=folder, help="PNG of the confusion matrix; <stem>.candidates.png beside it.")
@click.option("--overlay", nargs=2, type=str, metavar="PICTURE PNG", help="Draw one picture's partitions instead.")
@json_option
def evaluate(
    run_or_bundle: Path,
    dataset_dir: Path,
    split: str,
    output: Path | None,
    overlay: tuple[str, str] | None,
    as_json: bool,
) -> None:
    """Judge a run or a bundle on a split of a dataset, beside always answering NONE."""
    from evaluate.report import evaluate_artefact, table

    if overlay is not None:
        from evaluate.overlay import write_overlay

        write_overlay(run_or_bundle, dataset_dir, overlay[0], Path(overlay[1]), _say)
        return _finish(as_json, {"artefact": str(run_or_bundle), "overlay": overlay[1]})

    report = evaluate_artefact(run_or_bundle, dataset_dir, split, ProgressLine(), _say)
    _say(table(report))
    if output is not None:
        from train.curves import draw_candidates, draw_confusion, save_figure

        title, beside = f"{split} split, covered counted as NONE", output.with_suffix(".candidates.png")
        save_figure(draw_confusion(report["all"], title), output)
        save_figure(draw_candidates(report, title), beside)
        _say(f"wrote {output} and {beside}")
    return _finish(as_json, {"artefact": str(run_or_bundle), "split": split, "evaluation": report})


@main.command()
@click.option("--run", "run_dir", type=folder, default=Path("runs/default"), help="Run folder to export.")
@click.option("--output-dir", type=folder, default=DEFAULT_BUNDLE, help="Bundle folder to write.")
@click.option("--fold-bn", is_flag=True, help="Fold BatchNorm into the convolutions and compile.")
@click.option("--lower", type=click.Choice(["auto", "conv", "gemm"]), default="auto", help="Convolutions as products.")
@click.option("--precision", default="fp32", help="Comma-separated.")
@click.option("--onnx-input", default="uint8,int32", help="Comma-separated: uint8 for 8 bit, int32 for any bit depth.")
@click.option("--package", type=click.Choice(["none", "cpu", "cuda"]), default="none", help="AOTInductor, for here.")
@click.option("--engine", type=click.Choice(["none", "tensorrt", "tensorrt-rtx"]), default="none")
@click.option("--engine-input", default="uint8", help="Comma-separated: uint8 for 8 bit, int32 for any bit depth.")
@click.option("--min-batch", type=int, default=1, help="Least number of blocks of a call, of an engine.")
@click.option("--opt-batch", type=int, default=8160, help="The number of blocks that an engine is tuned for.")
@click.option("--max-batch", type=int, default=65536, help="Largest number of blocks of a call, of an engine.")
@click.option("--compute-capability", default="", help="RTX: such as 86,89,120.  [default: this GPU's, or these three]")
@click.option("--timing-cache", type=folder, help="tensorrt: what the builder measured, read and written back.")
@click.option("--version-compatible", is_flag=True, help="tensorrt: the engine also loads under later versions.")
@click.option(
    "--hardware-compatible",
    type=click.Choice(["same-compute-capability", "ampere-plus"]),
    help="tensorrt: the engine also runs on other GPUs.",
)
@click.option("--c", "c_dir", type=folder, help="Also write the model as C: sources and a blob for each precision.")
@click.option("--triton", type=folder, help="Also write the bundle's models into this Triton model repository.")
@json_option
def export(
    run_dir: Path,
    output_dir: Path,
    fold_bn: bool,
    lower: str,
    precision: str,
    onnx_input: str,
    package: str,
    engine: str,
    c_dir: Path | None,
    triton: Path | None,
    as_json: bool,
    **engine_options: Any,
) -> None:
    """Export a run as a bundle: ONNX files, engines, the reference, and a manifest that proves parity."""
    from export.run import ExportTask, export_run

    engines = _engines(engine, **engine_options)
    forms = tuple(onnx_input.split(","))
    c_precisions = tuple(p for p in precision.split(",") if p in ("fp32", "int8"))
    if c_dir is not None and not (fold_bn and c_precisions):
        raise UsageError("--c needs a folded model in fp32 or int8", "add --fold-bn --precision fp32,int8")
    if c_dir is not None:
        from export.c.write import require_no_border
        from train.checkpoint import checkpoint_model

        require_no_border(checkpoint_model(run_dir))
    task = ExportTask(run_dir, output_dir, fold_bn, lower, tuple(precision.split(",")), engines, package, forms)
    manifest = export_run(task, _say, ProgressLine())
    if c_dir is not None:
        from bundle import Bundle
        from export.c.write import write_c

        write_c(Bundle(output_dir, manifest), c_dir, c_precisions, _say)
    if triton is not None:
        from bundle import Bundle
        from export.triton import write_repository

        write_repository(Bundle(output_dir, manifest), triton, _say)
    _finish(as_json, {"output_dir": str(output_dir), "manifest": json.loads(manifest.to_json())})


def _engines(
    engine: str, engine_input: str, compute_capability: str, hardware_compatible: str | None, **plain: Any
) -> Any:
    """The EngineOptions of `export`, or None; options of an engine that nobody asked for are refused."""
    if engine == "none":
        context = click.get_current_context()
        given = [p.opts[0] for p in context.command.params if p.name in _ENGINE_OPTIONS and _was_given(context, p)]
        if given:
            raise UsageError(f"{given[0]} is of an engine, and none is built", "add --engine tensorrt-rtx or tensorrt")
        return None
    from export.engines import EngineOptions, parse_compute_capabilities

    targets, forms = parse_compute_capabilities(compute_capability), tuple(engine_input.split(","))
    return _config(
        lambda: EngineOptions(
            engine,
            compute_capabilities=targets,
            forms=forms,
            hardware_compatible=hardware_compatible or "",
            **plain,
        )
    )


@main.command()
@click.argument("source", metavar="BLOCKS.npy|FRAMES", type=folder)
@click.option("--bundle", "bundle_dir", type=folder, help=BUNDLE_HELP)
@click.option("--qindex", default="128", help="One value, or a .npy of one for each block.")
@click.option("--bit-depth", type=click.Choice(["8", "10", "12"]), default="8", help="Of a .npy or of raw frames.")
@click.option("--size", help="WIDTHxHEIGHT of raw frames (.yuv, .raw).")
@click.option("--chroma", type=click.Choice(["420", "422", "444", "mono"]), default="420", help="Of raw frames.")
@click.option(
    "--runtime",
    type=click.Choice(
        ["auto", "torch", "fused", "aotinductor", "onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]
    ),
    default="auto",
    help="auto takes the fastest that runs here, and says which.",
)
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32")
@click.option("--output", type=folder, help="Default: <stem>.partitions.npz beside the input; .apm: a partition map.")
@click.option("--keep", help="Of a map: share of true types to keep, such as 0.98, by the manifest's thresholds.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Of a map, in place of --keep: the least probability.")
@click.option("--map-probability", is_flag=True, help="Of a map: probabilities beside the masks.")
@click.option("--check-parity", is_flag=True, help="First compare the runtime with PyTorch on these blocks.")
@json_option
def predict(
    source: Path,
    bundle_dir: Path | None,
    qindex: str,
    bit_depth: str,
    size: str | None,
    chroma: str,
    runtime: str,
    precision: str,
    output: Path | None,
    keep: str | None,
    threshold: float | None,
    map_probability: bool,
    check_parity: bool,
    as_json: bool,
) -> None:
    """Predict the partition of every 16x16 block.

    BLOCKS.npy holds raw samples [N, 16, 16] or [N, 1, 16, 16], uint8 or uint16, or 32 in place of 16 for a bundle that
    sees a border; FRAMES is a Y4M, raw YUV, picture or video, whose blocks are cut here. An --output that ends in .apm
    is a partition map for encoders; `-` writes one to stdout, frame by frame, and all messages to stderr.
    """
    from infer.predict import PredictTask, predict_source
    from infer.source import BlockSource

    blocks: BlockSource
    with_border = precision == "fp32"  # of the shipped one there is no other file
    if source.suffix.lower() in (".npy", ""):
        from infer.block_file import open_blocks
        from partition import NODE_SIZE

        blocks = open_blocks(source, int(bit_depth))
        with_border = blocks.side > NODE_SIZE
    else:
        from data.frame_blocks import FrameBlocks

        blocks = FrameBlocks(source, _raw_format(size, int(bit_depth), chroma))
    target = output or source.with_suffix(".partitions.npz")
    if any(os.path.exists(p) and os.path.exists(target) and os.path.samefile(p, target) for p in (source, qindex)):
        raise UsageError(f"--output {target} is an input", "name another file: it would be overwritten")
    map_task = _map_task(blocks, target, qindex, keep, threshold, map_probability)
    to_stdout = map_task is not None and map_task.to_stdout
    if to_stdout and as_json:
        raise UsageError("--output - and --json both want stdout", "name a file")
    say = partial(click.echo, err=True) if to_stdout else _say
    bundle_dir = _bundle(bundle_dir, say, with_border)
    task = PredictTask(bundle_dir, target, qindex, runtime, precision, check_parity, map_task)
    outcome = predict_source(blocks, task, ProgressLine(), say)
    _finish(as_json, outcome.to_json())


def _map_task(
    blocks: Any, target: Path, qindex: str, keep: str | None, threshold: float | None, probability: bool
) -> Any:
    """The MapTask of `predict`, or None if --output is no partition map."""
    from data.frame_blocks import FrameBlocks
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
    if not isinstance(blocks, FrameBlocks):
        raise UsageError("a partition map is of frames, and this input is blocks", "give a Y4M, raw YUV or video")
    if not (qindex.isdecimal() and int(qindex) <= 255):
        raise UsageError(f"a partition map has one qindex, and --qindex is {qindex}", "give a number from 0 to 255")
    form = MapFormat(blocks.format.width, blocks.format.height, int(qindex), probability)
    return MapTask(form, keep or "0.98", threshold, to_stdout)


def _raw_format(size: str | None, bit_depth: int, chroma: str) -> Any:
    from frames.frame import FrameFormat

    if size is None:
        return None
    sides = size.lower().split("x")
    if len(sides) != 2 or not all(s.isdecimal() for s in sides):
        raise UsageError(f"--size {size} is no size", "write WIDTHxHEIGHT, such as 1920x1080")
    return FrameFormat(int(sides[0]), int(sides[1]), bit_depth, chroma)


@main.group()
def dataset() -> None:
    """Datasets: labels of real encodes."""


@dataset.command("blocks")
@click.argument("dataset_dir", type=folder, default=Path("data/sample"))
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@click.option("--border", type=click.Choice(["0", "8"]), default="0", help="Samples around each block too.")
@click.option("--output", type=folder, default=Path("blocks.npy"), help="qindex goes to <stem>.qindex.npy beside it.")
@json_option
def dataset_blocks(dataset_dir: Path, split: str, border: str, output: Path, as_json: bool) -> None:
    """Write the blocks and qindex of a split as the .npy files that predict reads."""
    from data.dataset import load_split, open_dataset, write_blocks

    pairs = load_split(open_dataset(dataset_dir), split, int(border))
    qindex = write_blocks(pairs, output)
    _say(f"read {dataset_dir}, split {split}: {len(pairs.pictures)} pictures")
    _say(f"wrote {output} and {qindex}: {len(pairs):,} pairs of block and qindex")
    _finish(as_json, {"blocks": str(output), "qindex": str(qindex), "pairs": len(pairs)})


@dataset.command("build")
@click.argument("videos", metavar="[VIDEO]...", nargs=-1, type=folder)
@click.option("--output-dir", type=folder, required=True, help="Dataset folder to write, or to go on with.")
@click.option("--qindex", default="80,128,172,220", help="Comma-separated; libaom reaches 64 of the 256 values.")
@click.option("--cpu-used", type=click.IntRange(0, 9), default=1, help="libaom's preset; never mix two in one dataset.")
@click.option("--every", type=click.IntRange(1), default=1, help="Take each k-th frame of a clip.")
@click.option("--jobs", type=click.IntRange(1), help="Encodes at once.  [default: the number of CPUs]")
@click.option("--scheduler", metavar="ADDRESS", help="Encode on the workers of this Dask scheduler instead.")
@click.option("--split", "split_file", type=folder, help="CSV of name,split; otherwise by the hash of the name.")
@click.option("--licence", default="", help="What the index says of every picture.")
@click.option("--size", metavar="WIDTHxHEIGHT", help="Of raw YUV.")
@click.option("--chroma", type=click.Choice(["420", "422", "444", "mono"]), default="420", help="Of raw YUV.")
@click.option("--bit-depth", type=click.Choice(["8", "10", "12"]), help="Of raw YUV (8 if not given), 16-bit pictures.")
@click.option("--packed-420", is_flag=True, help="Grey pictures hold Y above U and V.")
@click.option("--bitstream", "bitstreams", type=folder, multiple=True, help="Label this AV1 stream; encodes nothing.")
@click.option("--source", "sources", type=folder, multiple=True, help="What the stream was encoded from, in order.")
@click.option("--inter", is_flag=True, help="Take inter frames of a stream too.")
@json_option
def dataset_build(
    videos: tuple[Path, ...],
    output_dir: Path,
    qindex: str,
    cpu_used: int,
    jobs: int | None,
    bitstreams: tuple[Path, ...],
    sources: tuple[Path, ...],
    inter: bool,
    as_json: bool,
    scheduler: str | None,
    split_file: Path | None,
    licence: str,
    size: str | None,
    chroma: str,
    bit_depth: str | None,
    packed_420: bool,
    every: int,
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
    read = ReadOptions(_raw_format(size, depth or 8, chroma), packed_420, depth, every)
    if bitstreams:
        pairs = tuple(zip(bitstreams, sources, strict=True))
        labelling = LabelConfig(pairs, output_dir, read, inter, split_file, licence)
        ensure_libaom(_say)
        report = label_streams(labelling, ProgressLine(), _say)
    else:
        values = _config(lambda: tuple(int(q) for q in qindex.split(",")))
        jobs = jobs or len(os.sched_getaffinity(0))
        options = EncodeOptions(cpu_used)
        config = BuildConfig(videos, output_dir, values, options, read, jobs, scheduler, split_file, licence)
        if scheduler is None:
            ensure_libaom(_say)
        report = build_dataset(config, ProgressLine(), _say)
    _say(report.summary())
    _finish(as_json, report.to_json())
    report.raise_failures()


@dataset.command("show")
@click.argument("dataset_dir", type=folder, default=Path("data/sample"))
@click.option("--picture", "names", multiple=True, help="Draw these pictures.  [default: the first of each split]")
@click.option("--output-dir", type=folder, help="Where the PNGs go.  [default: DATASET_DIR/show]")
@json_option
def dataset_show(dataset_dir: Path, names: tuple[str, ...], output_dir: Path | None, as_json: bool) -> None:
    """Count the classes of a dataset, and draw its pictures with their partition trees."""
    from data.dataset import open_dataset
    from data.show import class_rows, class_table, rows_as_json, write_histogram, write_overlays

    opened = open_dataset(dataset_dir)
    pictures = opened.named(names) if names else opened.first_of_splits()
    rows = class_rows(opened)
    _say(f"read {dataset_dir}: {len(opened.pictures)} pictures")
    _say(class_table(rows))
    target = output_dir or dataset_dir / "show"
    files = [target / "classes.png", *(path for p in pictures for path in write_overlays(opened, p, target))]
    write_histogram(rows, files[0])
    for path in files:
        _say(f"wrote {path}")
    _finish(as_json, {"classes": rows_as_json(rows), "files": [str(path) for path in files]})


@main.command()
@click.argument("bundle_dir", metavar="[BUNDLE]", type=folder, required=False)
@click.option("--output-dir", type=folder, help="Where to draw <file>.<runtime>.parity.png.")
@json_option
def verify(bundle_dir: Path | None, output_dir: Path | None, as_json: bool) -> None:
    """Check a bundle's hashes, then its parity on this machine beside the export's; needs no torch."""
    from infer.verify import verify_bundle

    verification = verify_bundle(_bundle(bundle_dir), _say, output_dir)
    _finish(as_json, verification.to_json())
    verification.raise_failures()


@main.command()
@click.argument("bundle_dir", metavar="[BUNDLE]", type=folder, required=False)
@click.option("--batch", default="8160", help="Comma-separated batch sizes.")
@click.option("--output", type=folder, help="Default: benchmarks/results/speed_<hardware>_<yyyymm>.json.")
@json_option
def bench(bundle_dir: Path | None, batch: str, output: Path | None, as_json: bool) -> None:
    """Time the runtimes of a bundle beside PyTorch eager of the unfolded model, in one run."""
    from benchmarks.speed import run_benchmark

    result = run_benchmark(_bundle(bundle_dir), _batches(batch), output, _say)
    _finish(as_json, result)


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(b) for b in text.split(","))
    except ValueError:
        batches = (0,)
    if min(batches) < 1:
        raise UsageError(f"--batch {text} is no list of batch sizes", "write whole numbers from 1, such as 1024,8160")
    return batches


if __name__ == "__main__":
    main()
