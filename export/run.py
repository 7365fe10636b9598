"""A whole export: fold and compile a run, write the files, prove parity, and only then the manifest."""

from __future__ import annotations

import io
import json
import platform
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from bundle import (
    MANIFEST_FILE,
    REFERENCE_FILE,
    SCHEMA_VERSION,
    TOOLKIT_VERSION,
    Bundle,
    BundleFile,
    Manifest,
    write_manifest,
)
from compiler.compile import CompileOptions, compile_model
from compiler.flops import Cost, cost_table, module_cost
from errors import MissingComponentError, UsageError
from export.certify import certify, reference_set
from export.engines import EngineOptions, build_engines, engine_not_run, engine_tools, previous_engines
from export.onnx_int8 import CALIBRATION_PAIRS, calibrate, quantise, sample_feeds
from export.onnx_writer import build_onnx, save_onnx
from export.package import build_package, check_package_device
from files import output_errors, sha256_of, write_atomically
from infer.certificate import BATCH, Certificate, ReferenceSet
from infer.open import open_session
from infer.parity import compare, require
from infer.parity_figure import draw_parity
from infer.session import SessionOptions
from infer.sessions.torch_session import reference_prediction
from infer.verify import REFERENCE_PAIRS
from partition import HEADS, PARTITION_NAMES
from progress import Announce, Progress
from train.checkpoint import Run, model_bytes, open_run
from train.model import ModelConfig, PartitionModel

REFERENCE_BLOCKS = 4096
WEIGHTS_FILE = "model.safetensors"
CALIBRATION_FILE = "model.int8.calibration.json"
BIT_DEPTHS = {"uint8": (8,), "int32": (8, 10, 12)}


@dataclass(frozen=True)
class ExportTask:
    """One export.

    Attributes:
        run: the run folder.
        output_dir: the bundle folder.
        fold: fold BatchNorm; without, the BN nodes stay in the graph.
        lower: "conv" keeps convolutions, "gemm" makes every one a matrix product, "auto" chooses by layer.
        precisions: of the ONNX files.
        forms: their inputs: "uint8" for 8 bit, "int32" for every bit depth.
        engines: which engines to build of these files; None builds none.
        package: "cpu" or "cuda" for AOTInductor packages for this machine's; "none".
    """

    run: Path
    output_dir: Path
    fold: bool = True
    lower: str = "auto"
    precisions: tuple[str, ...] = ("fp32",)
    engines: EngineOptions | None = None
    package: str = "none"
    forms: tuple[str, ...] = ("uint8", "int32")

    def command(self) -> str:
        """The command line that does the same, but for the engines' own options."""
        paths = f"--run {shlex.quote(str(self.run))} --output-dir {shlex.quote(str(self.output_dir))}"
        fold = " --fold-bn" if self.fold else ""
        package = "" if self.package == "none" else f" --package {self.package}"
        forms = "" if self.forms == ("uint8", "int32") else f" --onnx-input {','.join(self.forms)}"
        precision = ",".join(self.precisions)
        return f"cli.py export {paths}{fold} --lower {self.lower} --precision {precision}{forms}{package}"


def semantics(config: ModelConfig) -> dict[str, object]:
    """What goes in and comes out, for the manifest and for each file's metadata."""
    side = config.side
    around = f" and the {config.border} samples around it" if config.border else ""
    form = "uint8 (8 bit) or int32 with bit_depth (8, 10, 12)"
    return {
        "blocks": f"raw luma samples [N, {side}, {side}], a 16x16 node each{around}, {form}",
        "pixels": "source luma before encoding; frame edges replicate the last row and column",
        "qindex": "int32 [N], 0-255, the frame's base_q_idx",
        "logits": {head: list(classes) for head, classes in HEADS.items()},
        "probability": "float32 [N, 10], by partition id, rows sum to 1",
        "partition": "int32 [N], argmax of probability",
    }


def export_run(task: ExportTask, announce: Announce, progress: Progress = lambda *_: None) -> Manifest:
    """Export a run as a bundle.

    Args:
        task: what to export, how, and where to.
        announce: told in one line what was read, used and written.
        progress: told how far the engines are, which can take minutes.

    Returns:
        The manifest as written.

    Raises:
        ToolkitError: whatever is wrong with the run, parity or the output folder. No manifest is left then.
    """
    _check_precisions(task)
    tools = None if task.engines is None else engine_tools(task.engines, task.precisions)
    if task.package != "none":
        check_package_device(task.package, task.precisions)
    run = open_run(task.run)
    announce(f"run {task.run}: trunk {run.model.config.trunk}, weights {run.sha256[:12]}")
    root, previous = task.output_dir, previous_engines(task.output_dir)
    with output_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        # A bundle that is being rewritten is no bundle until its new manifest is there.
        (root / MANIFEST_FILE).unlink(missing_ok=True)
    reference, travelling = reference_set(run.model), reference_set(run.model, REFERENCE_BLOCKS)
    files = _write_plain_files(root, run, travelling)
    for precision in task.precisions:
        compiled, costs = _compiled(run.model, task, precision, announce)
        if precision == "fp32":
            _check_compiled(compiled, reference, announce)
        files |= _write_onnx(root, run, compiled, costs, precision, task.forms)
        if task.package != "none":
            announce(f"AOTInductor compiles {precision} for this machine's {task.package}: about a minute")
            steps = files[f"model.{precision}.onnx"].steps
            keep, side = run.info.get("evaluation", {}).get("keep", {}), run.model.config.side
            files |= build_package(root, compiled, precision, steps, task.package, task.command(), keep, side)
    if tools is not None:
        files |= build_engines(root, files, tools, previous, task.command(), progress, announce)
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        run_sha256=run.sha256,
        model=asdict(run.model.config),
        semantics=semantics(run.model.config),
        classes=PARTITION_NAMES,
        files=files,
        metrics=run.info.get("evaluation", {}),
        versions=_versions(),
    )
    files = _certified(Bundle(root, manifest), run.model, reference, travelling, announce)
    manifest = replace(manifest, files=files | _draw_certificates(root, files))
    write_manifest(root, manifest)
    announce(f"wrote {root}: {', '.join([*manifest.files, MANIFEST_FILE])}")
    return manifest


def _check_precisions(task: ExportTask) -> None:
    unknown = set(task.precisions) - {"fp32", "fp16", "int8"}
    if unknown:
        raise MissingComponentError(
            f"precision {', '.join(sorted(unknown))} cannot be exported", "fp32, fp16, int8 can"
        )
    if not task.forms or set(task.forms) - {"uint8", "int32"}:
        raise UsageError(f"ONNX files take uint8 or int32, not {', '.join(task.forms)}", "--onnx-input uint8,int32")
    if task.engines is not None and (lacking := set(task.engines.forms) - set(task.forms)):
        form = lacking.pop()
        raise UsageError(f"an engine of {form} is built of the ONNX file of {form}", "name it with --onnx-input too")
    if task.package != "none" and "uint8" not in task.forms:
        raise UsageError("a package is of the 8-bit form", "add uint8 to --onnx-input")
    if not task.fold and task.precisions != ("fp32",):
        raise UsageError(f"precision {', '.join(task.precisions)} needs a folded model", "add --fold-bn")
    if task.lower == "conv" and "int8" in task.precisions:
        raise UsageError("int8 quantises products, and --lower conv leaves convolutions", "take --lower auto or gemm")
    if task.package != "none" and "int8" in task.precisions:
        raise UsageError("int8 is a precision of ONNX files alone", "export --package by itself")


def _compiled(
    model: PartitionModel, task: ExportTask, precision: str, announce: Announce
) -> tuple[nn.Module, dict[str, Cost]]:
    """The compiled model, and what it costs: as trained, and after each step."""
    costs = {}

    def count(step: str, made: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        costs[step] = module_cost(made, arguments)

    if precision == "int8":
        # Quantised later, on the graph; a product of bytes is so much faster that every convolution becomes one.
        compiled, _ = compile_model(model, CompileOptions(task.fold, "gemm"), count)
        costs["int8"] = next(reversed(costs.values()))
    else:
        compiled, _ = compile_model(model, CompileOptions(task.fold, task.lower, precision), count)
    announce(f"compiled for {precision}:\n{cost_table(costs)}")
    return compiled, costs


def _check_compiled(compiled: nn.Module, reference: ReferenceSet, announce: Announce) -> None:
    parts = []
    for start in range(0, len(reference.block), BATCH):
        part = slice(start, start + BATCH)
        blocks = reference.blocks[reference.block[part]]
        parts.append(reference_prediction(compiled, blocks, reference.qindex[part], 8).logits)
    report = compare(reference.logits, np.concatenate(parts), reference.qindex)
    require(report, "compiled", "the compiled model")
    announce(f"parity of the compiled model: {report.summary()}")


def _write_plain_files(root: Path, run: Run, chosen: ReferenceSet) -> dict[str, BundleFile]:
    """The reference's weights, and its answers on blocks of the embedded sample."""
    write_atomically(root / WEIGHTS_FILE, model_bytes(run.model))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, blocks=chosen.blocks[chosen.block], qindex=chosen.qindex, logits=chosen.logits)
    write_atomically(root / REFERENCE_FILE, buffer.getvalue())
    return {
        WEIGHTS_FILE: BundleFile(sha256_of(root / WEIGHTS_FILE), "weights", "fp32"),
        REFERENCE_FILE: BundleFile(sha256_of(root / REFERENCE_FILE), "reference"),
    }


def _write_onnx(
    root: Path, run: Run, compiled: nn.Module, costs: dict[str, Cost], precision: str, forms: tuple[str, ...]
) -> dict[str, BundleFile]:
    """The input forms of one precision; `costs` are those of the trained model and after each step."""
    files, ranges = {}, {}
    _, *steps = costs
    for form in forms:
        metadata = {
            "semantics": json.dumps(semantics(run.model.config)),
            "classes": ",".join(PARTITION_NAMES),
            "model": json.dumps(asdict(run.model.config)),
            "run_sha256": run.sha256,
            "weights_sha256": sha256_of(root / WEIGHTS_FILE),
            "toolkit": TOOLKIT_VERSION,
            "compile_steps": ",".join(steps),
        }
        name = f"model.{precision}.onnx" if form == "uint8" else f"model.{precision}.int32.onnx"
        proto = build_onnx(compiled, form, metadata, run.model.config.side)
        if precision == "int8":
            ranges[form] = calibrate(proto, sample_feeds(form, border=run.model.config.border))
            proto = quantise(proto, ranges[form])
        save_onnx(proto, root / name)
        digest, cost = sha256_of(root / name), {step: asdict(c) for step, c in costs.items()}
        files[name] = BundleFile(digest, "onnx", precision, form, tuple(steps), cost=cost)
    if ranges:
        values = {"pairs": CALIBRATION_PAIRS, "of": "the training split of the embedded sample", "ranges": ranges}
        write_atomically(root / CALIBRATION_FILE, (json.dumps(values, indent=1) + "\n").encode())
        files[CALIBRATION_FILE] = BundleFile(sha256_of(root / CALIBRATION_FILE), "calibration", precision)
    return files


def _certified(
    bundle: Bundle, model: PartitionModel, reference: ReferenceSet, travelling: ReferenceSet, announce: Announce
) -> dict[str, BundleFile]:
    """The bundle's files with the certificates of each ONNX file and engine: on every labelled pair of the sample, and
    on the pairs that travel with the bundle, which `verify` will hold its own against."""
    files = dict(bundle.manifest.files)
    for name, entry in bundle.manifest.files.items():
        if entry.kind not in ("onnx", "engine", "package"):
            continue
        # The int32 form is judged at the bit depths that only it serves, on the sample's blocks scaled up.
        depths = (8,) if entry.input == "uint8" else (10, 12)
        not_run = engine_not_run(name, entry) if entry.kind == "engine" else ""
        if not_run:
            announce(f"parity of {name} not run: {not_run}")
            keys = (*(f"{depth} bit" for depth in depths), REFERENCE_PAIRS)
            files[name] = replace(entry, parity={key: {"not run": not_run} for key in keys})
            continue
        recorded = entry.engine or entry.package
        runtime = str(recorded["runtime"]) if recorded else "onnxruntime-cpu"
        sets = {
            f"{depth} bit": (depth, reference if depth == 8 else _at_depth(reference, model, depth)) for depth in depths
        }
        parity = {}
        for key, (depth, pairs) in {**sets, REFERENCE_PAIRS: (8, travelling)}.items():
            options = SessionOptions(depth, entry.precision, form=entry.input)
            session = open_session(bundle, runtime, options)
            parity[key] = certify(session, pairs, entry.precision, announce).to_json()
        files[name] = replace(entry, parity=parity)
    return files


def _draw_certificates(root: Path, files: dict[str, BundleFile]) -> dict[str, BundleFile]:
    """A picture of the certificates of each file that has some."""
    drawn = {}
    for name, entry in files.items():
        made = {key: Certificate.from_json(c) for key, c in entry.parity.items() if "not run" not in c}
        if made:
            path = root / f"{name}.parity.png"
            write_atomically(path, draw_parity(made))
            drawn[path.name] = BundleFile(sha256_of(path), "report")
    return drawn


def _at_depth(reference: ReferenceSet, model: PartitionModel, depth: int) -> ReferenceSet:
    """A part of the reference set with samples of a higher bit depth: shifted, low bits filled from the neighbour."""
    keep = np.arange(0, len(reference.block), 16)
    plain = reference.blocks[reference.block[keep]].astype(np.uint16)
    blocks = (plain << (depth - 8)) | (np.roll(plain, 1, axis=2) & ((1 << (depth - 8)) - 1))
    qindex = reference.qindex[keep]
    logits = reference_prediction(model, blocks, qindex, depth).logits
    label = None if reference.label is None else reference.label[keep]
    return ReferenceSet(blocks, np.arange(len(keep)), qindex, logits, label)


def _versions() -> dict[str, str]:
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "toolkit": TOOLKIT_VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "gpu": gpu,
    }
