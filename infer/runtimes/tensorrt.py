"""Runtimes "tensorrt" and "tensorrt-rtx": an engine on the GPU that it was built for."""

from __future__ import annotations

from functools import partial

from bundle import Bundle
from infer.runtime import Runtime
from infer.session import Session, SessionOptions
from progress import Announce


def _open(runtime: str, bundle: Bundle, options: SessionOptions, announce: Announce) -> Session:
    from infer.sessions.tensorrt_session import TensorRtSession

    return TensorRtSession(bundle, options, runtime)


def _runtime(name: str, module: str, auto: int) -> Runtime:
    return Runtime(
        name,
        ("engine",),
        ("fp32", "fp16"),
        "cuda",
        partial(_open, name),
        made_by=f"--precision {{precision}} --engine {name} --engine-input {{form}}",
        requires=module,
        auto=auto,
    )


RUNTIMES = (_runtime("tensorrt", "tensorrt", 1), _runtime("tensorrt-rtx", "tensorrt_rtx", 2))
