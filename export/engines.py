"""Engines of a bundle: which to build, which to keep, what the manifest says of each.

    model.fp16.onnx ─┬─► model.fp16.sm86.tensorrt-rtx-1.7.1.engine    and .log
                     ├─► model.fp16.sm89.tensorrt-rtx-1.7.1.engine
                     └─► model.fp16.sm120.tensorrt-rtx-1.7.1.engine

An engine whose inputs (graph, options, library, GPU) are those of the one that is there is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bundle import MANIFEST_FILE, BundleFile, Manifest
from errors import ArtefactError, MissingComponentError, UsageError
from export.engine_builder import BuiltEngine, EngineTask, build_engine
from export.engine_types import Layer, type_counts
from files import sha256_of, write_atomically
from infer.sessions.cuda import Gpu, local_gpu, spell_sm
from infer.sessions.engine_record import HARDWARE_LEVELS, EngineRecord
from infer.sessions.tensorrt_library import MODULES, Library, open_library
from progress import Announce, Progress

DEFAULT_SM = (86, 89, 120)
PRECISIONS = ("fp32", "fp16")
_FORMS = frozenset({"uint8", "int32"})


@dataclass(frozen=True)
class EngineOptions:
    """Which engines to build.

    Attributes:
        runtime: "tensorrt" or "tensorrt-rtx".
        min_batch, opt_batch, max_batch: least, likeliest and largest number of blocks of a call.
        compute_capabilities: times ten, for tensorrt-rtx; empty takes this machine's GPU, or without one DEFAULT_SM.
        forms: input forms of the ONNX files to build from: "uint8", "int32".
        timing_cache: of the full TensorRT: what the builder measured, to start from and to write back.
        version_compatible: of the full TensorRT: the engine also loads under later versions.
        hardware_compatible: of the full TensorRT: one of HARDWARE_LEVELS.

    Raises:
        ValueError: for values that contradict each other or the runtime.
    """

    runtime: str
    min_batch: int = 1
    opt_batch: int = 8160
    max_batch: int = 65536
    compute_capabilities: tuple[int, ...] = ()
    forms: tuple[str, ...] = ("uint8",)
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: str = ""

    def __post_init__(self) -> None:
        if self.runtime not in MODULES:
            raise ValueError(f"an engine is of {' or '.join(MODULES)}, not {self.runtime!r}")
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch < 1 << 24:
            batches = f"{self.min_batch}, {self.opt_batch}, {self.max_batch}"
            raise ValueError(f"batches must rise: 1 <= --min-batch <= --opt-batch <= --max-batch < 2^24, not {batches}")
        if not self.forms or set(self.forms) - _FORMS:
            raise ValueError(f"engine inputs are uint8 and int32, not {','.join(self.forms) or 'none'}")
        if self.hardware_compatible not in HARDWARE_LEVELS:
            raise ValueError(f"hardware compatibility is one of {', '.join(HARDWARE_LEVELS[1:])}")
        if self.runtime == "tensorrt" and self.compute_capabilities:
            raise ValueError(
                "--compute-capability is for --engine tensorrt-rtx: tensorrt builds for the GPU that is there"
            )
        if self.runtime == "tensorrt-rtx":
            self._refuse_what_only_tensorrt_has()

    def _refuse_what_only_tensorrt_has(self) -> None:
        for option, given in (
            ("--timing-cache", self.timing_cache),
            ("--version-compatible", self.version_compatible),
            ("--hardware-compatible", self.hardware_compatible),
        ):
            if given:
                raise ValueError(f"{option} is for --engine tensorrt: tensorrt-rtx binds an engine to its release")

    def words(self) -> str:
        """The options as the command line takes them, but for the GPU: of this machine, wherever it is run."""
        text = f"--engine {self.runtime} --engine-input {','.join(self.forms)}"
        text += f" --min-batch {self.min_batch} --opt-batch {self.opt_batch} --max-batch {self.max_batch}"
        text += " --version-compatible" if self.version_compatible else ""
        return text + (f" --hardware-compatible {self.hardware_compatible}" if self.hardware_compatible else "")


def parse_compute_capabilities(text: str) -> tuple[int, ...]:
    """Compute capabilities times ten from text such as "86,8.9,120"; empty text gives none.

    Raises:
        UsageError: if it is no such list.
    """
    words = [word.strip().replace(".", "") for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() and 50 <= int(word) < 1000 for word in words):
        raise UsageError(f"--compute-capability {text} is no list of compute capabilities", "write such as 86,89,120")
    return tuple(dict.fromkeys(int(word) for word in words))


def previous_engines(root: Path) -> dict[str, BundleFile]:
    """The engines, and their logs, of the bundle that an export is about to replace; none if there is no sound one."""
    try:
        manifest = Manifest.from_json((root / MANIFEST_FILE).read_text(encoding="utf-8"))
        engines = {n: e for n, e in manifest.files.items() if e.kind == "engine"}
        logs = {EngineRecord.of(n, e).log for n, e in engines.items()}
        return {n: manifest.files[n] for n in (*engines, *logs) if _is_sound(root / n, manifest.files[n])}
    except (ArtefactError, ValueError, OSError, RecursionError, KeyError):
        return {}


def _is_sound(path: Path, entry: BundleFile) -> bool:
    return path.is_file() and sha256_of(path) == entry.sha256


@dataclass(frozen=True)
class EngineTools:
    """What engines are built with, found to be there before any work begins.

    Attributes:
        options: which engines.
        library: the TensorRT.
        gpu: this machine's; None without one.
        targets: compute capabilities times ten to build for.
    """

    options: EngineOptions
    library: Library
    gpu: Gpu | None
    targets: tuple[int, ...]


def engine_tools(options: EngineOptions, precisions: Sequence[str] = ()) -> EngineTools:
    """Find library, GPU and targets.

    Args:
        options: which engines.
        precisions: of the ONNX files that they will be built from.

    Raises:
        MissingComponentError: if the library, or the GPU that it builds on, is not there, or serves no such target; or
            for a precision whose types nothing here could check.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise MissingComponentError(f"no engine is built in {', '.join(sorted(unknown))}", "fp32 and fp16 can be")
    library, gpu = open_library(options.runtime), local_gpu()
    if options.runtime == "tensorrt":
        if gpu is None:
            raise MissingComponentError(
                "tensorrt builds on the GPU that the engine is for, and no CUDA GPU is visible",
                "build there, or take --engine tensorrt-rtx, which needs no GPU",
            )
        return EngineTools(options, library, gpu, (gpu.sm,))
    targets = options.compute_capabilities or ((gpu.sm,) if gpu is not None else DEFAULT_SM)
    for sm in targets:
        if not library.has(f"ComputeCapability.SM{sm}"):
            members = library.module.ComputeCapability.__members__
            known = ", ".join(spell_sm(int(n[2:])) for n in members if n[2:].isdecimal())
            whose = f" ({gpu.name})" if gpu is not None and not options.compute_capabilities else ""
            raise MissingComponentError(
                f"{library.runtime} {library.version} builds for {known}, not for compute capability"
                f" {spell_sm(sm)}{whose}",
                "name others with --compute-capability, or take --engine tensorrt",
            )
    return EngineTools(options, library, gpu, targets)


def build_engines(
    root: Path,
    files: dict[str, BundleFile],
    tools: EngineTools,
    previous: dict[str, BundleFile],
    rebuild: str,
    progress: Progress,
    announce: Announce,
) -> dict[str, BundleFile]:
    """Build every engine that the options ask for, or keep the one that is there.

    Args:
        root: the bundle's folder, where its ONNX files are written already.
        files: the bundle's entries so far.
        tools: from engine_tools.
        previous: from previous_engines.
        rebuild: the command that builds them again, without the options' own words.
        progress: told how far the builds are.
        announce: told one line for each engine.

    Returns:
        The engines and their logs, for the manifest, in order of building.

    Raises:
        ArtefactError: if an engine cannot be built, or is not of the precision asked for.
    """
    options = tools.options
    sources = [(n, e) for n, e in files.items() if e.kind == "onnx" and e.input in options.forms]
    made: dict[str, BundleFile] = {}
    total = 100 * len(sources) * len(tools.targets)
    progress(0, total, "engines")
    for index, (source, entry, sm) in enumerate((s, e, sm) for s, e in sources for sm in tools.targets):
        record = _record(tools, source, entry, sm, rebuild)
        name = f"{record.log.removesuffix('.log')}.engine"
        kept = _kept(name, record, previous)
        if kept is None:
            made |= _build(root, tools, name, entry, record, _Part(progress, 100 * index, total, name))
            size, layers = (root / name).stat().st_size, sum(made[name].engine["layers"].values())
            announce(f"built {name}: {size / 1e6:.1f} MB, the types of {layers} layers checked")
        else:
            made |= kept
            announce(f"kept {name}: nothing that it was built from has changed")
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


def _record(tools: EngineTools, onnx: str, entry: BundleFile, sm: int, rebuild: str) -> EngineRecord:
    """What can be said before it is built."""
    options, library = tools.options, tools.library
    built_on = tools.gpu.name if tools.gpu is not None and options.runtime == "tensorrt" else ""
    inputs = {
        "onnx": entry.sha256,
        "library": [library.runtime, library.version],
        "target": [sm, built_on],
        "batches": [options.min_batch, options.opt_batch, options.max_batch],
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
        min_batch=options.min_batch,
        opt_batch=options.opt_batch,
        max_batch=options.max_batch,
        onnx=onnx,
        onnx_sha256=entry.sha256,
        inputs=hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest(),
        layers={},
        engine_layers={},
        log=f"{onnx.removesuffix('.onnx')}.sm{sm}.{library.runtime}-{library.release}.log",
        rebuild=f"{rebuild} {options.words()}",
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


def engine_not_run(name: str, entry: BundleFile) -> str:
    """Why an engine's parity cannot be proven on this machine; empty if it can."""
    record, gpu = EngineRecord.of(name, entry), local_gpu()
    if gpu is None:
        return f"needs a GPU of SM {spell_sm(record.sm)}"
    refusal = record.refusal(record.version, gpu)
    return f"needs a GPU of SM {spell_sm(record.sm)}: {refusal}" if refusal else ""
