"""Runtime "torch": PyTorch eager in float32 on the CPU, the reference."""

from __future__ import annotations

from bundle import Bundle
from infer.runtime import Runtime
from infer.session import Session, SessionOptions
from progress import Announce


def _open(bundle: Bundle, options: SessionOptions, announce: Announce) -> Session:
    from infer.sessions.torch_session import TorchSession

    return TorchSession(bundle, options)


RUNTIME = Runtime("torch", ("weights",), ("fp32",), "cpu", _open, requires="torch")
