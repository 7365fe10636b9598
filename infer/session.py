"""One session per runtime behind one protocol, and the choice between them.

A runtime that was asked for runs, or `open_session` fails; only "auto" chooses, and it says what it took and why not
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle
from errors import ForeignArtefactError, MissingComponentError

RUNTIMES = ("torch", "fused", "aotinductor", "onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
AUTO_ORDER = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu")


SIZES = (1, 64, 1024, 8160, 32400, 65536)
"""Batches that GPU sessions capture graphs for: from one block over frames of 1080p and 4K to what fills the GPU."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of N blocks.

    Attributes:
        logits: of the five heads, float32 [N, 14], in the order of partition.HEADS.
        probability: of each partition type, float32 [N, 10], rows sum to 1.
        partition: the likeliest type, uint8 [N], 0-9.
    """

    logits: NDArray[np.float32]
    probability: NDArray[np.float32]
    partition: NDArray[np.uint8]


def joined(parts: list[Prediction]) -> Prediction:
    """Predictions of consecutive blocks as one."""
    if len(parts) == 1:
        return parts[0]
    logits, probability, partition = ([getattr(p, name) for p in parts] for name in vars(parts[0]))
    return Prediction(np.concatenate(logits), np.concatenate(probability), np.concatenate(partition))


@dataclass(frozen=True)
class SessionInfo:
    """What runs, as read back from the runtime, not as asked for."""

    runtime: str
    version: str
    device: str
    provider: str
    precision: str
    file: str

    def describe(self) -> str:
        """One line for people."""
        return f"{self.runtime} {self.version}, {self.provider} on {self.device}, {self.precision} ({self.file})"


Batch = tuple[NDArray[np.integer], NDArray[np.integer] | int]
"""Blocks [N, S, S], S being Manifest.side, uint8 at 8 bit and uint16 above, and qindex [N], 0-255, or one for all."""


class Session(Protocol):
    """A loaded model."""

    info: SessionInfo

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """Predict one batch.

        Args:
            blocks: raw luma samples [N, S, S], uint8 at 8 bit, uint16 above; N at least 1; S is Manifest.side.
            qindex: 0-255, integer [N].
        """
        ...


@runtime_checkable
class StreamingSession(Session, Protocol):
    """A session that keeps several batches in flight.

    Attributes:
        batch: the number of blocks that it likes best.
    """

    batch: int

    def stream(self, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """Predictions in order, without logits ([0, 14]); a batch may come back in pieces.

        Args:
            batches: read as they are needed; each is copied before the next is read.
        """
        ...


Fill = Callable[[NDArray[np.integer], NDArray[np.int32]], int]
"""Writes the next blocks and their qindex into arrays [n, S, S] and [n]; tells how many, 0 at the end."""


@runtime_checkable
class FlowingSession(StreamingSession, Protocol):
    """A session whose own buffers can be written and read, so that blocks are copied but once.

    Attributes:
        dtype: of the blocks in its buffers.
    """

    dtype: np.dtype

    def flow(self, fill: Fill, count: int) -> Generator[Prediction]:
        """Predictions in order, without logits ([0, 14]): views of buffers, valid until the next one is asked for.

        Args:
            fill: called in another thread.
            count: how many blocks there will be; fewer than its batch need smaller buffers.
        """
        ...


@dataclass(frozen=True)
class SessionOptions:
    """How to run a bundle.

    Attributes:
        bit_depth: of the samples: 8, 10 or 12.
        precision: "fp32", "fp16" or "int8"; the bundle must hold it.
        threads: of the CPU; 0 leaves it to the runtime.
        form: input form of the ONNX file, "uint8" or "int32"; empty takes uint8 at 8 bit and int32 above.
    """

    bit_depth: int = 8
    precision: str = "fp32"
    threads: int = 0
    form: str = ""

    @property
    def input_form(self) -> str:
        """The input form that these options mean."""
        return self.form or ("uint8" if self.bit_depth == 8 else "int32")


def open_session(
    bundle: Bundle, runtime: str, options: SessionOptions, announce: Callable[[str], None] = lambda _: None
) -> Session:
    """A session of that runtime on a bundle.

    Args:
        bundle: opened and verified.
        runtime: one of RUNTIMES, or "auto".
        options: bit depth, precision, threads.
        announce: told what "auto" passed over, and why; and of batches halved for want of GPU memory.

    Raises:
        MissingComponentError: if the runtime cannot run here as asked.
        ForeignArtefactError: if its engines are for another GPU, driver or version; "auto" passes them over.
    """
    if runtime != "auto":
        return _open(bundle, runtime, options, announce)
    refused = []
    for candidate in AUTO_ORDER:
        try:
            session = _open(bundle, candidate, options, announce)
        except (MissingComponentError, ForeignArtefactError) as error:
            refused.append(f"{candidate}: {error.message}")
            continue
        for reason in refused:
            announce(f"runtime auto passed over {reason}")
        return session
    raise MissingComponentError("no runtime can run this bundle here", "; ".join(refused))


def _open(bundle: Bundle, runtime: str, options: SessionOptions, announce: Callable[[str], None]) -> Session:
    if runtime == "torch":
        _require("torch", "pip install torch")
        from infer.sessions.torch_session import TorchSession

        return TorchSession(bundle, options)
    if runtime == "fused":
        _require("torch", "pip install torch")
        from infer.sessions.fused_session import FusedSession

        return FusedSession(bundle, options, announce=announce)
    if runtime == "aotinductor":
        _require("torch", "pip install torch")
        from infer.sessions.package_session import PackageSession

        return PackageSession(bundle, options)
    if runtime in ("onnxruntime-cpu", "onnxruntime-cuda"):
        _require("onnxruntime", "pip install onnxruntime-gpu (or onnxruntime)")
        from infer.sessions.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle, options, cuda=runtime == "onnxruntime-cuda")
    if runtime in ("tensorrt", "tensorrt-rtx"):
        from infer.sessions.tensorrt_session import TensorRtSession

        return TensorRtSession(bundle, options, runtime)
    raise ValueError(f"runtime is one of {', '.join(RUNTIMES)} or auto, not {runtime!r}")


def _require(module: str, hint: str) -> None:
    if find_spec(module) is None:
        raise MissingComponentError(f"{module} is not installed", hint)
