"""Runtimes "onnxruntime-cpu" and "onnxruntime-cuda": a bundle's ONNX file under ONNX Runtime."""

from __future__ import annotations

from bundle import Bundle
from infer.runtime import Runtime
from infer.session import Session, SessionOptions
from progress import Announce

_MADE_BY = "--precision {precision} --onnx-input {form}"
_REQUIRES = "onnxruntime"


def _open_cpu(bundle: Bundle, options: SessionOptions, announce: Announce) -> Session:
    from infer.sessions.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, options, cuda=False)


def _open_cuda(bundle: Bundle, options: SessionOptions, announce: Announce) -> Session:
    from infer.sessions.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, options, cuda=True)


RUNTIMES = (
    Runtime("onnxruntime-cpu", ("onnx",), ("fp32", "fp16", "int8"), "cpu", _open_cpu, _MADE_BY, _REQUIRES, auto=4),
    Runtime("onnxruntime-cuda", ("onnx",), ("fp32", "fp16"), "cuda", _open_cuda, _MADE_BY, _REQUIRES, auto=3),
)
