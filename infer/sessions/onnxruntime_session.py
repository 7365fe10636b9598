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
from errors import ArtefactError, MissingComponentError
from infer.session import SIZES, Prediction, SessionInfo, SessionOptions, joined
from machine import cuda_devices
from partition import LOGITS, NODE_SIZE, Partition

_OUTPUTS = ["logits", "probability", "partition"]
# By default the CUDA provider multiplies float32 in TF32, with 10 bits of mantissa: 4e-2 off in our logits on an H200.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0", "enable_cuda_graph": "1"}}
_QUIET = 3  # errors only: onnxruntime warns of every node it keeps on the CPU by choice


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
        if cuda and options.precision == "int8":
            raise MissingComponentError("int8 files are for CPUs", "--runtime onnxruntime-cpu runs them")
        if cuda:
            _require_cuda()
        self._session = _create(str(bundle.path(name)), provider, options.threads)
        in_use = self._session.get_providers()
        if in_use[0] != provider:
            raise MissingComponentError(
                f"onnxruntime fell back to {in_use[0]}", "onnxruntime-gpu needs the CUDA 13 and cuDNN 9 libraries"
            )
        _check_graph(self._session, bundle.path(name), form)
        self._bit_depth = np.array(options.bit_depth, np.int32) if form == "int32" else None
        self._dtype = np.dtype(np.int32 if form == "int32" else np.uint8)
        self._bound: dict[int, BoundBatch] | None = {} if cuda else None
        self._side = bundle.manifest.side
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
        logits, probability, partition = self._session.run(_OUTPUTS, feeds)
        return Prediction(logits, probability, partition.astype(np.uint8))

    def _run_bound(
        self, bound: dict[int, BoundBatch], blocks: NDArray[np.integer], qindex: NDArray[np.integer]
    ) -> Prediction:
        size = next(s for s in SIZES if s >= len(blocks))
        if size not in bound:
            bound[size] = BoundBatch(self._session, size, self._dtype, self._bit_depth, "cuda", self._side)
        return bound[size].predict(blocks, qindex)


class BoundBatch:
    """One batch size: buffers on the device that are used again, and a CUDA graph of its own."""

    def __init__(
        self,
        session: Any,
        size: int,
        dtype: np.dtype,
        bit_depth: NDArray[np.int32] | None,
        device: str,
        side: int = NODE_SIZE,
    ) -> None:
        """Args:
        session: onnxruntime's.
        size: blocks.
        dtype: of the blocks.
        bit_depth: the scalar input, for files that have it.
        device: "cuda" or "cpu".
        side: of the blocks, in samples.
        """
        self._session, self._size = session, size
        self._host = {"blocks": np.zeros((size, side, side), dtype), "qindex": np.zeros(size, np.int32)}
        fixed = {} if bit_depth is None else {"bit_depth": bit_depth}
        self._binding = session.io_binding()
        self._inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0)
            for name, value in (self._host | fixed).items()
        }
        self._outputs = {
            name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, device, 0)
            for name, shape, kind in zip(
                _OUTPUTS,
                ((size, LOGITS), (size, len(Partition)), (size,)),
                (np.float32, np.float32, np.int32),
                strict=True,
            )
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = onnxruntime.RunOptions()
        if device == "cuda":
            self._options.add_run_config_entry("gpu_graph_id", str(size))

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict, for at most `size` blocks; what is left of the buffers stays as it was."""
        count = len(blocks)
        for name, value in (("blocks", blocks), ("qindex", qindex)):
            self._host[name][:count] = value
            self._inputs[name].update_inplace(self._host[name])
        self._session.run_with_iobinding(self._binding, self._options)
        logits, probability, partition = (self._outputs[name].numpy()[:count] for name in _OUTPUTS)
        return Prediction(logits, probability, partition.astype(np.uint8))


def _require_cuda() -> None:
    if not cuda_devices():
        raise MissingComponentError("no CUDA GPU is visible", "nvidia-smi shows what the driver sees")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise MissingComponentError("this onnxruntime has no CUDA provider", "pip install onnxruntime-gpu")
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot find; the session's provider tells
            onnxruntime.preload_dlls()


def _check_graph(session: Any, path: Path, form: str) -> None:
    inputs = {"blocks", "qindex", "bit_depth"} if form == "int32" else {"blocks", "qindex"}
    found = {i.name for i in session.get_inputs()}, {o.name for o in session.get_outputs()}
    if found != (inputs, set(_OUTPUTS)):
        raise ArtefactError(f"{path} is no partition predictor: its graph has other inputs or outputs", "export again")


def _create(path: str, provider: str, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, settings, providers=[(provider, _OPTIONS.get(provider, {}))])
    except Exception as error:  # onnxruntime raises kinds of its own, one for each status code
        raise ArtefactError(f"onnxruntime refuses {path}: {error}", "export again") from None
