"""Runtime "fused": the bundle's weights, compiled when it opens, on an NVIDIA GPU."""

from __future__ import annotations

from bundle import Bundle
from infer.runtime import Runtime
from infer.session import Session, SessionOptions
from progress import Announce


def _open(bundle: Bundle, options: SessionOptions, announce: Announce) -> Session:
    from infer.sessions.fused_session import FusedSession

    return FusedSession(bundle, options, announce=announce)


RUNTIME = Runtime("fused", ("weights",), ("fp16",), "cuda", _open, requires="torch")
