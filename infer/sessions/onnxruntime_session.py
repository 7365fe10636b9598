"""ONNX Runtime on the CPU or a CUDA GPU. Which provider runs is read back from the session: available is not in use."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bundle import Bundle
from description import Task
from errors import ArtefactError, MissingComponentError
from infer.arrays import check_batch, output_forms, prediction_of
from infer.session import SIZES, Prediction, SessionInfo, SessionOptions, joined

# By default the CUDA provider multiplies float32 in TF32, with 10 bits of mantissa: 4e-2 off in our logits on an H200.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0", "enable_cuda_graph": "1"}}
_TYPES = {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"}
_QUIET = 4  # what it cannot do it raises, too; and it warns of every node that it keeps on the CPU by choice


class OnnxRuntimeSession:
    """A bundle's ONNX file under ONNX Runtime.

    On CUDA every batch size of SIZES has device buffers that are used again, and a CUDA graph, which ONNX Runtime
    grants only to a network of which no node runs elsewhere: that it opens is the proof.

    Raises:
        MissingComponentError: if the bundle has no file of that precision, or CUDA was asked for and is not what runs.
        ArtefactError: if ONNX Runtime refuses the file.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions, cuda: bool) -> None:
        form = options.input_form
        name = bundle.find("onnx", options.precision, form)
        provider = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        if cuda:
            _require_provider()
        self._session = _create(str(bundle.path(name)), provider, options.threads)
        in_use = self._session.get_providers()
        if in_use[0] != provider:
            raise MissingComponentError(
                f"onnxruntime fell back to {in_use[0]}", "onnxruntime-gpu needs the CUDA 13 and cuDNN 9 libraries"
            )
        self._task = bundle.manifest.task
        _check_graph(self._session, bundle.path(name), form, self._task)
        self._depth = options.bit_depth
        self._bit_depth = np.array(options.bit_depth, np.int32) if form == "int32" else None
        self._dtype = np.dtype(np.int32 if form == "int32" else np.uint8)
        self._bound: dict[int, BoundBatch] | None = {} if cuda else None
        self.info = SessionInfo(
            runtime="onnxruntime-cuda" if cuda else "onnxruntime-cpu",
            version=onnxruntime.__version__,
            device="cuda:0" if cuda else "cpu",
            provider=in_use[0],
            precision=options.precision,
            file=name,
        )

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict."""
        check_batch(blocks, qindex, self._task.input, self._depth)
        if self._bound is None:
            return self._run(blocks, qindex)
        parts = [
            self._run_bound(self._bound, blocks[start : start + SIZES[-1]], qindex[start : start + SIZES[-1]])
            for start in range(0, len(blocks), SIZES[-1])
        ]
        return joined(parts)

    def _run(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        feeds: dict[str, Any] = {
            "blocks": np.ascontiguousarray(blocks, self._dtype),
            "qindex": np.ascontiguousarray(qindex, np.int32),
        }
        if self._bit_depth is not None:
            feeds["bit_depth"] = self._bit_depth
        outputs = self._session.run(list(self._task.output_names), feeds)
        return prediction_of(outputs, self._task, len(blocks), self.info.file)

    def _run_bound(
        self, bound: dict[int, BoundBatch], blocks: NDArray[np.integer], qindex: NDArray[np.integer]
    ) -> Prediction:
        size = next(s for s in SIZES if s >= len(blocks))
        if size not in bound:
            bound[size] = BoundBatch(self._session, size, self._dtype, self._bit_depth, "cuda", self._task)
        outputs = bound[size].run(blocks, qindex)
        return prediction_of(outputs, self._task, len(blocks), self.info.file)


class BoundBatch:
    """One batch size: buffers on the device that are used again, and a CUDA graph of its own."""

    def __init__(
        self,
        session: Any,
        size: int,
        dtype: np.dtype,
        bit_depth: NDArray[np.int32] | None,
        device: str,
        task: Task,
    ) -> None:
        """Args:
        session: onnxruntime's.
        size: blocks.
        dtype: of the blocks.
        bit_depth: the scalar input, for files that have it.
        device: "cuda" or "cpu".
        task: what the file reads and answers.
        """
        self._session, self._names = session, task.output_names
        side = task.input.side
        self._host = {"blocks": np.zeros((size, side, side), dtype), "qindex": np.zeros(size, np.int32)}
        fixed = {} if bit_depth is None else {"bit_depth": bit_depth}
        self._binding = session.io_binding()
        self._inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0)
            for name, value in (self._host | fixed).items()
        }
        self._outputs = {
            name: onnxruntime.OrtValue.ortvalue_from_shape_and_type((size, *shape), np.dtype(dtype).type, device, 0)
            for name, (dtype, shape) in output_forms(task).items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = onnxruntime.RunOptions()
        if device == "cuda":
            self._options.add_run_config_entry("gpu_graph_id", str(size))

    def run(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> list[NDArray[Any]]:
        """The graph's outputs for at most `size` blocks; what is left of the buffers stays as it was."""
        count = len(blocks)
        for name, value in (("blocks", blocks), ("qindex", qindex)):
            self._host[name][:count] = value
            self._inputs[name].update_inplace(self._host[name])
        self._session.run_with_iobinding(self._binding, self._options)
        return [self._outputs[name].numpy()[:count] for name in self._names]


def _require_provider() -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise MissingComponentError("this onnxruntime has no CUDA provider", "pip install onnxruntime-gpu")
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot find; the session's provider tells
            onnxruntime.preload_dlls()


def _check_graph(session: Any, path: Path, form: str, task: Task) -> None:
    side = task.input.side
    inputs: dict[str, tuple[str, tuple[int, ...]]] = {"blocks": (form, (side, side)), "qindex": ("int32", ())}
    if form == "int32":
        inputs["bit_depth"] = "int32", ()
    for expected, found in ((inputs, session.get_inputs()), (output_forms(task), session.get_outputs())):
        declared = {each.name: (each.type, tuple(each.shape[1:])) for each in found}
        wanted = {name: (_TYPES[dtype], shape) for name, (dtype, shape) in expected.items()}
        if declared != wanted:
            odd = ", ".join(sorted(n for n in declared | wanted if declared.get(n) != wanted.get(n)))
            raise ArtefactError(f"{path} is no partition predictor of its bundle: its {odd} differ", "export again")


def _create(path: str, provider: str, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, settings, providers=[(provider, _OPTIONS.get(provider, {}))])
    except Exception as error:  # onnxruntime raises kinds of its own, one for each status code
        raise ArtefactError(f"onnxruntime refuses {path}: {error}", "export again") from None
