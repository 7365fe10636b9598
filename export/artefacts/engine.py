"""Kind "engine": which to build, which to keep, what the manifest says of each.

    model.fp16.onnx ─┬─► model.fp16.sm86.tensorrt-rtx-1.7.1.engine    and .log
                     ├─► model.fp16.sm89.tensorrt-rtx-1.7.1.engine
                     └─► model.fp16.sm120.tensorrt-rtx-1.7.1.engine

An engine whose inputs (graph, options, library, GPU) are those of the one that is there is kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from bundle import BundleFile, open_manifest
from description import Task
from errors import ArtefactError, UsageError
from export.engine_builder import BuiltEngine, EngineTask, build_engine
from export.engine_options import EngineTools, engine_tools
from export.engine_types import Layer, type_counts
from export.plan import ExportTask, Work
from export.staging import carry_over
from files import sha256_of, write_atomically
from infer.sessions.cuda import local_gpu, spell_sm
from infer.sessions.engine_record import EngineRecord
from progress import Progress


def previous_engines(root: Path) -> dict[str, BundleFile]:
    """The engines, and their logs, of the bundle that an export takes the place of; none if there is no sound one."""
    try:
        manifest = open_manifest(root)
        engines = {n: e for n, e in manifest.files.items() if e.kind == "engine"}
        logs = {EngineRecord.of(n, e).log for n, e in engines.items()}
        return {n: manifest.files[n] for n in (*engines, *logs) if _is_sound(root / n, manifest.files[n])}
    except (ArtefactError, OSError, KeyError):
        return {}


def _is_sound(path: Path, entry: BundleFile) -> bool:
    return path.is_file() and sha256_of(path) == entry.sha256


def check(task: ExportTask, reads: Task) -> None:
    """As Writer.check."""
    if task.engines is None:
        return
    if lacking := set(task.engines.forms) - set(task.forms):
        form = lacking.pop()
        raise UsageError(f"an engine of {form} is built of the ONNX file of {form}", "name it with --onnx-input too")
    engine_tools(task.engines, task.precisions)


def write(work: Work) -> None:
    """As Writer.write, behind the ONNX files."""
    if work.task.engines is not None:
        tools = engine_tools(work.task.engines, work.task.precisions)
        work.files |= build_engines(work, tools, previous_engines(work.before))


def build_engines(work: Work, tools: EngineTools, previous: dict[str, BundleFile]) -> dict[str, BundleFile]:
    """Build every engine that the options ask for, or keep the one that is there.

    Args:
        work: whose ONNX files are written already; it is told how far the builds are.
        tools: from engine_tools.
        previous: from previous_engines.

    Returns:
        The engines and their logs, for the manifest, in order of building.

    Raises:
        ArtefactError: if an engine cannot be built, or is not of the precision asked for.
    """
    sources = [(n, e) for n, e in work.files.items() if e.kind == "onnx" and e.input in tools.options.forms]
    made: dict[str, BundleFile] = {}
    total = 100 * len(sources) * len(tools.targets)
    work.progress(0, total, "engines")
    for index, (source, entry, sm) in enumerate((s, e, sm) for s, e in sources for sm in tools.targets):
        record = _record(work, tools, source, entry, sm)
        name = f"{record.log.removesuffix('.log')}.engine"
        kept = _kept(name, record, previous)
        if kept is None:
            made |= _build(work.root, tools, name, entry, record, _Part(work.progress, 100 * index, total, name))
            size, layers = (work.root / name).stat().st_size, sum(made[name].engine["layers"].values())
            work.announce(f"built {name}: {size / 1e6:.1f} MB, the types of {layers} layers checked")
        else:
            for each in kept:
                carry_over(work.before / each, work.root / each)
            made |= kept
            work.announce(f"kept {name}: nothing that it was built from has changed")
    return made


@dataclass(frozen=True)
class _Part:
    """Progress of one engine within that of all."""

    progress: Progress
    start: int
    total: int
    text: str

    def __call__(self, share: float) -> None:
        self.progress(self.start + max(1, int(100 * share)), self.total, self.text)


def _record(work: Work, tools: EngineTools, onnx: str, entry: BundleFile, sm: int) -> EngineRecord:
    """What can be said before it is built."""
    options, library = tools.options, tools.library
    least, opt, most = options.batches(work.reads)
    built_on = tools.gpu.name if tools.gpu is not None and options.runtime == "tensorrt" else ""
    inputs = {
        "onnx": entry.sha256,
        "library": [library.runtime, library.version],
        "target": [sm, built_on],
        "batches": [least, opt, most],
        "compatible": [options.version_compatible, options.hardware_compatible],
        "precision": entry.precision,
    }
    return EngineRecord(
        runtime=library.runtime,
        version=library.version,
        sm=sm,
        gpu=built_on,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        min_batch=least,
        opt_batch=opt,
        max_batch=most,
        onnx=onnx,
        onnx_sha256=entry.sha256,
        inputs=hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest(),
        layers={},
        engine_layers={},
        log=f"{onnx.removesuffix('.onnx')}.sm{sm}.{library.runtime}-{library.release}.log",
        rebuild=f"{work.task.command()} {options.words(work.reads)}",
    )


def _kept(name: str, record: EngineRecord, previous: dict[str, BundleFile]) -> dict[str, BundleFile] | None:
    """The entries of an engine and its log that were there before, if they are what would be built."""
    if name not in previous or record.log not in previous:
        return None
    before = EngineRecord.of(name, previous[name])
    if before.inputs != record.inputs:
        return None
    entry = replace(previous[name], engine=replace(before, rebuild=record.rebuild).to_dict())
    return {name: entry, record.log: previous[record.log]}


def _build(
    root: Path, tools: EngineTools, name: str, entry: BundleFile, record: EngineRecord, progress: _Part
) -> dict[str, BundleFile]:
    options = tools.options
    task = EngineTask(
        onnx=(root / record.onnx).read_bytes(),
        name=name,
        precision=entry.precision,
        batches=(record.min_batch, record.opt_batch, record.max_batch),
        sm=record.sm if options.runtime == "tensorrt-rtx" else 0,
        read_back=tools.gpu is not None and tools.gpu.sm == record.sm,
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
    )
    built = build_engine(tools.library, task, progress)
    record = replace(record, layers=type_counts(built.layers), engine_layers=type_counts(built.engine_layers))
    write_atomically(root / name, built.plan)
    write_atomically(root / record.log, _log_text(name, record, built).encode())
    return {
        name: BundleFile(
            sha256_of(root / name), "engine", entry.precision, entry.input, entry.steps, engine=record.to_dict()
        ),
        record.log: BundleFile(sha256_of(root / record.log), "report"),
    }


def _log_text(name: str, record: EngineRecord, built: BuiltEngine) -> str:
    """The build log: what was asked for, what the builder said, and every layer with its types."""
    parts = [f"{name}", f"{record.runtime} {record.version}, for compute capability {spell_sm(record.sm)}"]
    parts += [f"profile: {record.min_batch}, {record.opt_batch}, {record.max_batch} blocks", "", *built.log]
    for title, layers in (("parsed network", built.layers), ("built engine", built.engine_layers)):
        if layers:
            parts += ["", f"layers of the {title}: kind, name, types read, types written", *map(_layer_line, layers)]
    return "\n".join(parts) + "\n"


def _layer_line(layer: Layer) -> str:
    read, written = (",".join(kind for _, kind in tensors) or "-" for tensors in (layer.inputs, layer.outputs))
    return f"{layer.kind} {layer.name}: {read} -> {written}"


def not_run(name: str, entry: BundleFile) -> str:
    """Why an engine's parity cannot be proven on this machine; empty if it can."""
    record, gpu = EngineRecord.of(name, entry), local_gpu()
    if gpu is None:
        return f"needs a GPU of SM {spell_sm(record.sm)}"
    refusal = record.refusal(record.version, gpu)
    return f"needs a GPU of SM {spell_sm(record.sm)}: {refusal}" if refusal else ""
