"""TensorRT and TensorRT for RTX: a bundle's engine on the GPU that it was built for.

    blocks, qindex ─► device memory ─► execute_async_v3 ─► device memory ─► logits, probability, partition

Which engine fits is decided from the manifest before anything is loaded; what does not fit is refused with the command
that rebuilds it. Device memory comes from the driver itself (cuda.py): neither torch nor cuda-python is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle
from errors import ArtefactError, ForeignArtefactError, MissingComponentError, UntrustedCodeError
from infer.arrays import check_batch, output_forms, prediction_of
from infer.session import Prediction, SessionInfo, SessionOptions
from infer.sessions.cuda import Driver, Gpu, Memory, spell_sm
from infer.sessions.engine_record import EngineRecord
from infer.sessions.tensorrt_library import Library, make_log, open_library

# The contract of the graph (docs/DESIGN.md, Model), as the engine must give it back: type, and shape after N.
_Tensors = dict[str, tuple[str, tuple[int, ...]]]
_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8"}


class TensorRtSession:
    """A bundle's engine.

    Args:
        bundle: opened and verified.
        options: bit depth, precision, form; threads are the GPU's business.
        runtime: "tensorrt" or "tensorrt-rtx".
        make_driver: of the GPU; another one in tests.

    Raises:
        MissingComponentError: if the bundle holds no such engine, the library is not installed, there is no GPU, or
            its memory does not suffice.
        ForeignArtefactError: if the engines are for another GPU, driver or version; the hint rebuilds them.
        UntrustedCodeError: if the engine carries code for the CPU, and the options do not let it run.
        ArtefactError: if the engine is no partition predictor, or not of the ONNX file beside it.
    """

    def __init__(
        self, bundle: Bundle, options: SessionOptions, runtime: str, make_driver: Callable[[], Driver] = Driver
    ) -> None:
        engines = engines_of(bundle, runtime, options)
        library = open_library(runtime)
        self._driver = make_driver()
        gpu = self._driver.gpu()
        name, record = choose_engine(bundle, engines, library, gpu)
        if record.version_compatible and not options.run_code:
            raise UntrustedCodeError(f"{name} carries code of its own for the CPU")
        _require_same_graph(bundle, name, record)
        self._log = make_log(library)
        # The runtime must outlive the engine.
        self._runtime = library.module.Runtime(self._log)
        self._engine = self._load(library, bundle.path(name).read_bytes(), name, record)
        self._int32 = options.input_form == "int32"
        self._bit_depth = np.array(options.bit_depth, np.int32)
        self._task = bundle.manifest.task
        self._inputs, self._outputs = _inputs_of(self._task.input.side, self._int32), output_forms(self._task)
        _check_tensors(self._engine, self._inputs | self._outputs, name)
        least, _, most = (int(shape[0]) for shape in self._engine.get_tensor_profile_shape("blocks", 0))
        self._least, self._most = least, most
        self._context = self._engine.create_execution_context()
        if self._context is None:
            hint = f"it was built for {most:,} blocks a call; export with a smaller --max-batch"
            raise MissingComponentError(f"{name} finds no room on {gpu.name}: {self._log.first_error}", hint)
        self._stream = self._driver.stream()
        self._memory: dict[str, Memory] = {}
        self.info = SessionInfo(
            runtime=runtime,
            version=library.version,
            device=f"cuda:0 ({gpu.name}, compute capability {spell_sm(gpu.sm)}, driver CUDA {gpu.driver})",
            provider=f"{self._engine.num_layers} engine layers",
            precision=options.precision,
            file=name,
        )

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict; splits batches that the engine's profile does not hold."""
        check_batch(blocks, qindex, self._task.input, int(self._bit_depth))
        self._driver.enter()
        chunks = [slice(start, start + self._most) for start in range(0, len(blocks), self._most)]
        parts = [self._run(blocks[chunk], qindex[chunk]) for chunk in chunks]
        outputs = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return prediction_of(outputs, self._task, len(blocks), self.info.file)

    def _run(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> tuple[NDArray[Any], ...]:
        """One call of the engine; a batch smaller than the profile's least is filled up with zeros."""
        count = len(blocks)
        size = max(count, self._least)
        given = {"blocks": _filled(blocks, size, self._inputs["blocks"][0]), "qindex": _filled(qindex, size, "int32")}
        if self._int32:
            given["bit_depth"] = self._bit_depth
        for name, values in given.items():
            if name != "bit_depth" and not self._context.set_input_shape(name, values.shape):
                raise self._failure(f"refuses {name} of shape {values.shape}")
            self._driver.upload(self._bind(name, values.nbytes), values, self._stream)
        found = {name: np.empty((size, *shape), dtype) for name, (dtype, shape) in self._outputs.items()}
        memory = {name: self._bind(name, values.nbytes) for name, values in found.items()}
        if not self._context.execute_async_v3(self._stream):
            raise self._failure("does not run")
        for name, values in found.items():
            self._driver.download(values, memory[name], self._stream)
        self._driver.synchronise(self._stream)
        return tuple(values[:count] for values in found.values())

    def _bind(self, name: str, size: int) -> Memory:
        """The tensor's device memory, large enough, and known to the context."""
        if name not in self._memory or self._memory[name].size < size:
            self._memory[name] = self._driver.allocate(size)
        if not self._context.set_tensor_address(name, self._memory[name].address):
            raise self._failure(f"refuses the address of {name}")
        return self._memory[name]

    def _failure(self, what: str) -> MissingComponentError:
        return MissingComponentError(f"{self.info.file} {what}: {self._log.first_error}", "take another --runtime")

    def _load(self, library: Library, plan: bytes, name: str, record: EngineRecord) -> Any:
        if library.has("Runtime.get_engine_validity"):
            self._require_valid(library, plan, name, record)
        if record.version_compatible:  # such an engine carries a runtime of its own: code for the CPU
            self._runtime.engine_host_code_allowed = True
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ForeignArtefactError(f"{name} does not load here: {self._log.first_error}", _rebuild(record))
        return engine

    def _require_valid(self, library: Library, plan: bytes, name: str, record: EngineRecord) -> None:
        """What TensorRT for RTX reads off an engine's header, before it loads it."""
        validity, found = self._runtime.get_engine_validity(plan)
        if validity != library.module.EngineValidity.INVALID:
            return
        causes = library.module.EngineInvalidityDiagnostics.__members__
        named = [text.lower().replace("_", " ") for text, member in causes.items() if int(member) & int(found)]
        reason = ", ".join(named) or "its header is not accepted"
        said = "".join(f"; {line.partition(': ')[2]}" for line in self._log.lines[-1:])
        raise ForeignArtefactError(
            f"{name} is refused by {library.runtime} {library.version}: {reason}{said}",
            "update the GPU driver" if "old cuda driver" in named else _rebuild(record),
        )


def engines_of(bundle: Bundle, runtime: str, options: SessionOptions) -> dict[str, EngineRecord]:
    """The bundle's engines of a runtime, precision and input form, by name.

    Raises:
        MissingComponentError: if there is none.
        ArtefactError: if the manifest's record of one is malformed.
    """
    wanted = ("engine", options.precision, options.input_form)
    files = bundle.manifest.files.items()
    found = {n: EngineRecord.of(n, e) for n, e in files if (e.kind, e.precision, e.input) == wanted}
    engines = {n: record for n, record in found.items() if record.runtime == runtime}
    if not engines:
        form = "" if options.input_form == "uint8" else f" --engine-input {options.input_form}"
        raise MissingComponentError(
            f"{bundle.root} holds no {runtime} engine for {options.precision} and {options.input_form} blocks",
            f"cli.py export --fold-bn --precision {options.precision} --engine {runtime}{form} makes one",
        )
    return engines


def choose_engine(
    bundle: Bundle, engines: dict[str, EngineRecord], library: Library, gpu: Gpu
) -> tuple[str, EngineRecord]:
    """The first engine that may run on that GPU under that library.

    Raises:
        ForeignArtefactError: if none may, with the reasons and the command that rebuilds.
    """
    refusals = {}
    for name, record in engines.items():
        refusals[name] = record.refusal(library.version, gpu)
        if not refusals[name]:
            return name, record
    first = next(iter(engines.values()))
    hint = _rebuild(first)
    if first.runtime == "tensorrt-rtx" and not library.has(f"ComputeCapability.SM{gpu.sm}"):
        hint = (
            f"tensorrt-rtx does not run on compute capability {spell_sm(gpu.sm)}: take --runtime onnxruntime-cuda,"
            f" or build for the full runtime: {first.rebuild.replace('--engine tensorrt-rtx', '--engine tensorrt')}"
        )
    reasons = "; ".join(f"{name} was {refusal}" for name, refusal in refusals.items())
    raise ForeignArtefactError(f"no engine of {bundle.root} fits this machine: {reasons}", hint)


def _rebuild(record: EngineRecord) -> str:
    return f"rebuild it here: {record.rebuild}"


def _require_same_graph(bundle: Bundle, name: str, record: EngineRecord) -> None:
    beside = bundle.manifest.files.get(record.onnx)
    if beside is None or beside.sha256 != record.onnx_sha256:
        raise ArtefactError(f"{name} was not built from the {record.onnx} beside it", _rebuild(record))


def _inputs_of(side: int, int32: bool) -> _Tensors:
    blocks, qindex = ("int32" if int32 else "uint8", (side, side)), ("int32", ())
    return {"blocks": blocks, "qindex": qindex} | ({"bit_depth": ("int32", ())} if int32 else {})


def _check_tensors(engine: Any, expected: _Tensors, name: str) -> None:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found = {}
    for tensor in names:
        kind = engine.get_tensor_dtype(tensor).name
        found[tensor] = _TYPES.get(kind, kind), tuple(engine.get_tensor_shape(tensor))[1:]
    if found != expected:
        differ = ", ".join(sorted(t for t in found.keys() | expected.keys() if found.get(t) != expected.get(t)))
        raise ArtefactError(f"{name} is no partition predictor: its {differ} differ", "export again")


def _filled(values: NDArray[np.integer], size: int, dtype: str) -> NDArray[Any]:
    if len(values) == size:
        return np.ascontiguousarray(values, dtype)
    filled = np.zeros((size, *values.shape[1:]), dtype)
    filled[: len(values)] = values
    return filled
