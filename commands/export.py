"""`export`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from commands.bundles import DEFAULT_BUNDLE
from commands.options import PATH, OneOf, configured, json_option, was_given
from console import ProgressLine, say, say_json
from errors import UsageError

if TYPE_CHECKING:
    from export.engine_options import EngineOptions


LOWER = ("auto", "conv", "gemm")
"""As compiler.targets has them, which loads torch."""


class EngineWords(TypedDict):
    """The options that only an engine has."""

    engine_input: str
    min_batch: int
    opt_batch: int | None
    max_batch: int | None
    compute_capability: str
    timing_cache: Path | None
    version_compatible: bool
    hardware_compatible: str | None


def _engine_kinds() -> Iterable[str]:
    from infer.sessions.tensorrt_library import MODULES

    return "none", *MODULES


def _hardware_levels() -> Iterable[str]:
    from infer.sessions.engine_record import HARDWARE_LEVELS

    return filter(None, HARDWARE_LEVELS)


@click.command()
@click.option("--run", "run_dir", type=PATH, default=Path("runs/default"), help="Run folder to export.")
@click.option("--output-dir", type=PATH, default=DEFAULT_BUNDLE, help="Bundle folder to write.")
@click.option("--fold-bn", is_flag=True, help="Fold BatchNorm into the convolutions and compile.")
@click.option("--lower", type=click.Choice(LOWER), default="auto", help="Convolutions as products.")
@click.option("--precision", default="fp32", help="Comma-separated.")
@click.option("--onnx-input", default="uint8,int32", help="Comma-separated: uint8 for 8 bit, int32 for any bit depth.")
@click.option("--package", type=click.Choice(["none", "cpu", "cuda"]), default="none", help="AOTInductor, for here.")
@click.option("--engine", type=OneOf(_engine_kinds), default="none")
@click.option("--engine-input", default="uint8", help="Comma-separated: uint8 for 8 bit, int32 for any bit depth.")
@click.option("--min-batch", type=int, default=1, help="Least number of blocks of a call, of an engine.")
@click.option(
    "--opt-batch", type=int, help="The number of blocks that an engine is tuned for.  [default: a 1080p frame's]"
)
@click.option("--max-batch", type=int, help="Largest number of blocks of a call, of an engine.  [default: of eight]")
@click.option("--compute-capability", default="", help="RTX: such as 86,89,120.  [default: this GPU's, or these three]")
@click.option("--timing-cache", type=PATH, help="tensorrt: what the builder measured, read and written back.")
@click.option("--version-compatible", is_flag=True, help="tensorrt: the engine also loads under later versions.")
@click.option(
    "--hardware-compatible",
    type=OneOf(_hardware_levels),
    help="tensorrt: the engine also runs on other GPUs.",
)
@click.option("--blob", is_flag=True, help="Also what the C library runs, in each precision that it has; --c means it.")
@click.option("--c", "c_dir", type=PATH, help="Also write the C library's sources there, with the bundle's blobs.")
@click.option("--triton", type=PATH, help="Also write the bundle's models into this Triton model repository.")
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
    blob: bool,
    c_dir: Path | None,
    triton: Path | None,
    as_json: bool,
    **engine_words: Unpack[EngineWords],
) -> None:
    """Export a run as a bundle: ONNX files, engines, the reference, and a manifest that proves parity."""
    from bundle import Bundle
    from export.plan import ExportTask
    from export.run import export_run

    task = ExportTask(
        run_dir,
        output_dir,
        fold_bn,
        lower,
        tuple(precision.split(",")),
        _engines(engine, **engine_words),
        package,
        tuple(onnx_input.split(",")),
        blob or c_dir is not None,
    )
    manifest = export_run(task, say, ProgressLine())
    if c_dir is not None:
        from export.c.write import write_c

        write_c(Bundle(output_dir, manifest), c_dir, say)
    if triton is not None:
        from export.triton import write_repository

        write_repository(Bundle(output_dir, manifest), triton, say)
    say_json(as_json, {"output_dir": str(output_dir), "manifest": json.loads(manifest.to_json())})


def _engines(engine: str, **words: Unpack[EngineWords]) -> EngineOptions | None:
    """The engines to build; options of an engine that nobody asked for are refused."""
    if engine == "none":
        context = click.get_current_context()
        given = [p.opts[0] for p in context.command.params if p.name in words and was_given(context, p)]
        if given:
            raise UsageError(f"{given[0]} is of an engine, and none is built", "add --engine tensorrt-rtx or tensorrt")
        return None
    from export.engine_options import EngineOptions, parse_compute_capabilities

    targets = parse_compute_capabilities(words["compute_capability"])
    return configured(
        lambda: EngineOptions(
            engine,
            min_batch=words["min_batch"],
            opt_batch=words["opt_batch"],
            max_batch=words["max_batch"],
            compute_capabilities=targets,
            forms=tuple(words["engine_input"].split(",")),
            timing_cache=words["timing_cache"],
            version_compatible=words["version_compatible"],
            hardware_compatible=words["hardware_compatible"] or "",
        )
    )
