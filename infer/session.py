"""What every session is, whatever runs it: protocols, and the types that they speak of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle
from description import BLOCKS, FRAME_4K, FRAME_1080P
from progress import Announce

SIZES = (1, 64, 1024, *(BLOCKS.input.blocks_in(frame) for frame in (FRAME_1080P, FRAME_4K)), 65536)
"""Batches that GPU sessions capture graphs for: from one block over frames of 1080p and 4K to what fills the GPU."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of N blocks, nodes in the order of description.Task.

    Attributes:
        logits: float32 [N, task.logits].
        probability: of each node's types, float32 [N, task.probabilities]; those of a node sum to 1.
        partition: each node's likeliest type, a Partition, uint8 [N, task.nodes]; [N] if a block is one node.
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
"""Blocks as Session.predict's, and qindex [N], 0-255, or one for all."""


class Session(Protocol):
    """A loaded model."""

    info: SessionInfo

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """Predict one batch.

        Args:
            blocks: raw luma samples [N, S, S], uint8 at 8 bit, uint16 above; N at least 1; S is the side
                of the task's input.
            qindex: 0-255, integer [N].

        Raises:
            InputError: if blocks or qindex are of another type or shape, there is none, or qindex is out of range.
            ArtefactError: if what comes out is no prediction.
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
        """Predictions in order, without logits (none, [0, task.logits]); a batch may come back in pieces.

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
        """Predictions in order, without logits (none): views of buffers, valid until the next one is asked for.

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
        form: input form of the file, "uint8" or "int32"; empty takes uint8 at 8 bit and int32 above.
        run_code: whether machine code out of the bundle may run; only from whom one trusts.
    """

    bit_depth: int = 8
    precision: str = "fp32"
    threads: int = 0
    form: str = ""
    run_code: bool = False

    @property
    def input_form(self) -> str:
        """The input form that these options mean."""
        return self.form or ("uint8" if self.bit_depth == 8 else "int32")


Opener = Callable[[Bundle, SessionOptions, Announce], Session]
"""Opens a session; it is told of batches halved for want of GPU memory."""
