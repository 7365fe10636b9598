"""Runtime "aotinductor": a package of machine code that PyTorch's own compiler made for one kind of processor."""

from __future__ import annotations

from bundle import Bundle
from infer.runtime import Runtime
from infer.session import Session, SessionOptions
from progress import Announce


def _open(bundle: Bundle, options: SessionOptions, announce: Announce) -> Session:
    from infer.sessions.package_session import PackageSession

    return PackageSession(bundle, options)


RUNTIME = Runtime(
    "aotinductor",
    ("package",),
    ("fp32", "fp16"),
    "any",
    _open,
    made_by="--precision {precision} --package cpu (or cuda)",
    requires="torch",
    runs_code=True,
)
