"""One engine: ONNX bytes in, a serialized engine, its layers and the builder's log out.

The code is the same for TensorRT and TensorRT for RTX; what only one of them has is asked of the module:

| | TensorRT 10 | TensorRT 11 | TensorRT for RTX |
|---|---|---|---|
| strongly typed | a flag at network creation | always; the flag is ignored | always |
| target | this machine's GPU | this machine's GPU | `num_compute_capabilities`, no GPU needed |
| timing cache | yes | yes | none: its calls do nothing |
| version, hardware compatible | yes | yes | no: an engine is bound to its release |

Precision flags are used nowhere: TensorRT 11 removed them, and types come from the graph. TF32 is off everywhere, so
that float32 means float32. Sources: NVIDIA, "Migrating from TensorRT 10.x to 11.x" (Python); TensorRT-RTX 1.1 release
notes (timing cache); the docstrings of the installed bindings.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import ArtefactError, MissingComponentError
from export.engine_types import Layer, read_engine, read_network, require_engine_types, require_types
from files import write_atomically
from infer.sessions.tensorrt_library import Library, make_log

_LEVELS = {"same-compute-capability": "SAME_COMPUTE_CAPABILITY", "ampere-plus": "AMPERE_PLUS"}


@dataclass(frozen=True)
class EngineTask:
    """One engine to build.

    Attributes:
        onnx: the file's bytes.
        name: of the engine, for messages.
        precision: "fp32" or "fp16", to check types against.
        batches: least, likeliest and largest number of blocks of a call.
        sm: compute capability times ten to build for; 0 where the runtime builds for this machine's GPU.
        read_back: whether the built engine can be loaded here, to have its own types checked.
        timing_cache: file to start from and to write back; None for none.
        version_compatible, hardware_compatible: as infer.sessions.engine_record.EngineRecord has them.
    """

    onnx: bytes
    name: str
    precision: str
    batches: tuple[int, int, int]
    sm: int = 0
    read_back: bool = False
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: str = ""


@dataclass(frozen=True)
class BuiltEngine:
    """What a build gave.

    Attributes:
        plan: the serialized engine.
        layers: of the parsed network.
        engine_layers: of the engine, by the inspector; empty if it was not read back.
        log: lines of the builder.
    """

    plan: bytes
    layers: tuple[Layer, ...]
    engine_layers: tuple[Layer, ...]
    log: tuple[str, ...]


def build_engine(library: Library, task: EngineTask, progress: Callable[[float], None]) -> BuiltEngine:
    """Parse, check types, build, and check the built engine's types where it can be loaded.

    Args:
        library: an opened TensorRT.
        task: what to build.
        progress: told the share that is done, 0-1.

    Raises:
        ArtefactError: if TensorRT refuses the graph, or types are not those asked for.
        MissingComponentError: if the library lacks what the task needs.
        KeyboardInterrupt: after Ctrl-C, once the builder has stopped.
    """
    trt, log = library.module, make_log(library)
    builder = _create(trt.Builder, log, library)
    network = builder.create_network(_creation_flags(library))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(task.onnx):
        reason = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)) or log.first_error
        raise ArtefactError(f"{library.runtime} refuses the graph of {task.name}: {reason}", "report it with the graph")
    layers = read_network(network)
    outputs = frozenset(network.get_output(i).name for i in range(network.num_outputs))
    require_types(layers, task.precision, outputs, task.name)
    config = _config(library, builder, network, task)
    with _interruptible() as interrupted:
        monitor = _make_monitor(library, progress, interrupted)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ArtefactError(
            f"{library.runtime} cannot build {task.name}: {log.first_error}",
            "another --precision or --compute-capability may be served",
        )
    plan = bytes(plan)
    engine_layers = _read_back(library, task, plan, log) if task.read_back else ()
    if engine_layers:
        require_engine_types(engine_layers, layers, task.precision, outputs, task.name)
    if task.timing_cache is not None:
        write_atomically(task.timing_cache, bytes(config.get_timing_cache().serialize()))
    return BuiltEngine(plan, layers, engine_layers, tuple(log.lines))


def _create(make: Callable[[Any], Any], log: Any, library: Library) -> Any:
    """pybind raises TypeError where the C++ factory gives nothing, as without a usable GPU."""
    try:
        return make(log)
    except (TypeError, RuntimeError) as error:
        reason = log.first_error or str(error)
        raise MissingComponentError(f"{library.runtime} does not start: {reason}", "nvidia-smi shows the GPU") from None


def _creation_flags(library: Library) -> int:
    if not library.has("NetworkDefinitionCreationFlag.STRONGLY_TYPED"):
        return 0  # it is the only kind there
    return 1 << int(library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _config(library: Library, builder: Any, network: Any, task: EngineTask) -> Any:
    trt = library.module
    config = builder.create_builder_config()
    if library.has("BuilderFlag.TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape:
            profile.set_shape(tensor.name, *((n, *shape[1:]) for n in task.batches))
    config.add_optimization_profile(profile)
    if task.sm:
        _target(library, config, task.sm)
    if task.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if task.hardware_compatible:
        level = _LEVELS[task.hardware_compatible]
        if not library.has(f"HardwareCompatibilityLevel.{level}"):
            raise MissingComponentError(
                f"{library.runtime} {library.version} has no hardware compatibility '{task.hardware_compatible}'",
                "install a newer TensorRT, or leave --hardware-compatible out",
            )
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if task.timing_cache is not None:
        stored = task.timing_cache.read_bytes() if task.timing_cache.exists() else b""
        cache = config.create_timing_cache(stored)
        if cache is None or not config.set_timing_cache(cache, False):
            raise ArtefactError(
                f"{task.timing_cache} is no timing cache of this GPU and TensorRT", "name another file, or remove it"
            )
    return config


def _target(library: Library, config: Any, sm: int) -> None:
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(library.module.ComputeCapability, f"SM{sm}"), 0):
        raise MissingComponentError(f"{library.runtime} {library.version} refuses compute capability {sm}")


def _read_back(library: Library, task: EngineTask, plan: bytes, log: Any) -> tuple[Layer, ...]:
    runtime = library.module.Runtime(log)
    if task.version_compatible:
        runtime.engine_host_code_allowed = True  # of the runtime that such an engine carries
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtefactError(f"the engine does not load where it was built: {log.first_error}", "report it")
    inspector = engine.create_engine_inspector()
    return read_engine(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))


def _make_monitor(library: Library, progress: Callable[[float], None], interrupted: threading.Event) -> Any:
    """An IProgressMonitor that follows the outermost phase and stops the build once `interrupted` is set."""
    base = library.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc,valid-type]
        """Called by the builder, possibly from other threads."""

        def __init__(self) -> None:
            base.__init__(self)
            self._outermost, self._steps = "", 1

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outermost, self._steps = phase_name, max(1, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self._outermost:
                progress(1.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._outermost:
                progress(min(1.0, (step + 1) / self._steps))
            return not interrupted.is_set()

    return Monitor()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of raising in the middle of the builder's C++, and raises at the end."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
    if event.is_set():
        raise KeyboardInterrupt
