"""Runtime "c": a blob under the C library, built on first use."""

from __future__ import annotations

from bundle import Bundle
from infer.runtime import Runtime
from infer.session import Session, SessionOptions
from progress import Announce


def _open(bundle: Bundle, options: SessionOptions, announce: Announce) -> Session:
    from infer.sessions.c_session import CSession

    return CSession(bundle, options, announce)


RUNTIME = Runtime("c", ("blob",), ("fp32", "int8"), "cpu", _open, made_by="--precision {precision} --blob")
