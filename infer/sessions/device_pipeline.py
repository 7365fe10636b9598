"""Host to host through a GPU: pinned buffers that are used again, CUDA graphs, and copies beside computing.

    slot 0 (stream 0):  fill ─► [ copy in ─► compute ─► copy out ] ─► take
    slot 1 (stream 1):            fill ─► [ copy in ─► compute ─► copy out ] ─► take

What stands in brackets is one CUDA graph for a batch of fixed size; a smaller batch leaves the rest of the buffers as
they were. While one slot computes, the next one's blocks cross PCIe, as one byte a sample at 8 bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from description import Task
from infer.session import SIZES, Batch, Fill, Prediction, joined

SLOTS = 3
_WARM_UP = 3

Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Blocks [N, S, S] and qindex int32 [N] on the GPU to logits, probability and partition, as of infer.session."""


class Slot:
    """Buffers and the graph of one batch in flight.

    Attributes:
        blocks: pinned, uint8 (int32 above 8 bit) [size, side, side]: write them here, or use `fill`.
        qindex: pinned, int32 [size].
        logits, probability, partition: pinned, as infer.session.Prediction's of `size` blocks.
    """

    def __init__(self, compute: Compute, size: int, dtype: torch.dtype, task: Task) -> None:
        self.size, side = size, task.input.side
        shapes = {
            "blocks": ((size, side, side), dtype),
            "qindex": ((size,), torch.int32),
            "logits": ((size, task.logits), torch.float32),
            "probability": ((size, task.probabilities), torch.float32),
            "partition": ((size,) if task.one_node else (size, task.nodes), torch.uint8),
        }
        self._host = {n: torch.zeros(shape, dtype=kind).pin_memory() for n, (shape, kind) in shapes.items()}
        self._inputs = tuple(self._host[n].cuda() for n in ("blocks", "qindex"))
        self.blocks, self.qindex, self.logits, self.probability, self.partition = (
            self._host[n].numpy() for n in shapes
        )
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                self._enqueue(compute)
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph, stream=self._stream):
            self._enqueue(compute)
        self._count = 0

    def _enqueue(self, compute: Compute) -> None:
        for target, name in zip(self._inputs, ("blocks", "qindex"), strict=True):
            target.copy_(self._host[name], non_blocking=True)
        outputs = compute(*self._inputs)
        for name, value in zip(("logits", "probability", "partition"), outputs, strict=True):
            self._host[name].copy_(value, non_blocking=True)

    def fill(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer] | int) -> None:
        """Write at most `size` blocks into the pinned buffers."""
        self.wait()  # a result that nobody took may still be on its way out
        self._count = len(blocks)
        np.copyto(self.blocks[: self._count], blocks, casting="unsafe")
        self.qindex[: self._count] = qindex

    def fill_by(self, fill: Fill) -> int:
        """Let `fill` write the pinned buffers; returns how many blocks it wrote."""
        self.wait()
        self._count = fill(self.blocks, self.qindex)
        return self._count

    def launch(self) -> None:
        """Start; returns at once."""
        with torch.cuda.stream(self._stream):
            self._graph.replay()

    def wait(self) -> None:
        """Until the results are in the pinned buffers."""
        self._stream.synchronize()

    def view(self) -> Prediction:
        """Wait, and show the results without logits where they lie, until the next launch."""
        self.wait()
        part = slice(0, self._count)
        return Prediction(self.logits[:0], self.probability[part], self.partition[part])

    def take(self, with_logits: bool = True) -> Prediction:
        """Wait, and copy out the results of what `fill` wrote; without logits, these are an empty array."""
        self.wait()
        part = slice(0, self._count)
        logits = self.logits[part if with_logits else slice(0, 0)]
        return Prediction(logits.copy(), self.probability[part].copy(), self.partition[part].copy())


class DeviceBatch:
    """A batch whose blocks are on the GPU already: no copy to or from the host."""

    def __init__(self, compute: Compute, size: int, dtype: torch.dtype, side: int) -> None:
        self._inputs = (
            torch.zeros(size, side, side, dtype=dtype, device="cuda"),
            torch.zeros(size, dtype=torch.int32, device="cuda"),
        )
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                compute(*self._inputs)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph, stream=stream):
            self._outputs = compute(*self._inputs)

    def predict(self, blocks: Tensor, qindex: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, probability and partition of at most `size` blocks, on the current stream.

        Returns:
            Views of buffers on the GPU, valid until the next call.
        """
        for target, value in zip(self._inputs, (blocks, qindex), strict=True):
            target[: len(blocks)].copy_(value)
        self._graph.replay()
        logits, probability, partition = (value[: len(blocks)] for value in self._outputs)
        return logits, probability, partition


class DevicePipeline:
    """Batches of any size through slots of fixed sizes. One thread at a time."""

    def __init__(
        self,
        make_slot: Callable[[int], Slot],
        sizes: tuple[int, ...] = SIZES,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Args:
        make_slot: captures a slot of that size.
        sizes: batches that graphs are captured for, ascending; a larger one is cut.
        announce: told when memory runs out and the largest batch is halved.
        """
        self._make_slot, self._announce = make_slot, announce
        self._sizes = list(sizes)
        self._slots: dict[int, list[Slot]] = {}

    @property
    def largest(self) -> int:
        """The largest batch that runs as one."""
        return self._sizes[-1]

    def _size_of(self, count: int) -> int:
        """The captured size that `count` blocks run as."""
        return next((size for size in self._sizes if size >= count), self._sizes[-1])

    def slots(self, count: int, slots: int = 1) -> list[Slot]:
        """At least that many slots for `count` blocks, captured if they are not yet.

        Raises:
            torch.cuda.OutOfMemoryError: if not even the smallest batch fits.
        """
        while True:
            size = self._size_of(count)
            made = self._slots.setdefault(size, [])
            try:
                while len(made) < slots:
                    made.append(self._make_slot(size))
                return made[:slots]
            except torch.cuda.OutOfMemoryError:
                if made:  # fewer in flight, but the same batch
                    return made
                self._halve(size)
                count = min(count, self.largest)

    def _halve(self, size: int) -> None:
        if size == 1:
            raise torch.cuda.OutOfMemoryError("not even one block fits into the GPU's memory")
        self._sizes = [s for s in self._sizes if s < size]
        if not self._sizes or self._sizes[-1] < size // 2:
            self._sizes.append(size // 2)
        self._slots = {s: made for s, made in self._slots.items() if s in self._sizes}
        torch.cuda.empty_cache()
        self._announce(f"out of GPU memory at {size:,} blocks: batches are {self.largest:,} now")

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict."""
        return joined(list(self.stream([(blocks, qindex)], with_logits=True)))

    def stream(self, batches: Iterable[Batch], with_logits: bool = False) -> Iterator[Prediction]:
        """As StreamingSession.stream; `with_logits` as Slot.take."""
        flying: deque[Slot] = deque()
        for blocks, qindex in self._pieces(batches):
            slots = self.slots(len(blocks), SLOTS)
            if (free := next((s for s in slots if s not in flying), None)) is None:
                while flying and slots[0] in flying:
                    yield flying.popleft().take(with_logits)
                free = slots[0]
            free.fill(blocks, qindex)
            free.launch()
            flying.append(free)
        while flying:
            yield flying.popleft().take(with_logits)

    def flow(self, fill: Fill, count: int) -> Generator[Prediction]:
        """As FlowingSession.flow: while one slot is filled, others compute, and one is read."""
        free: SimpleQueue[Slot | None] = SimpleQueue()
        flying: SimpleQueue[Slot | None] = SimpleQueue()
        for made in self.slots(count, SLOTS + 1):
            free.put(made)

        def feed() -> None:
            try:
                while (slot := free.get()) is not None and slot.fill_by(fill):
                    slot.launch()
                    flying.put(slot)
            finally:
                flying.put(None)

        with ThreadPoolExecutor(1) as pool:
            feeding = pool.submit(feed)
            try:
                while (slot := flying.get()) is not None:
                    yield slot.view()
                    free.put(slot)
                feeding.result()
            finally:
                free.put(None)

    def _pieces(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for blocks, qindex in batches:
            start = 0
            while start < len(blocks):
                self.slots(len(blocks) - start)  # finds out what fits
                stop = start + self.largest
                yield blocks[start:stop], qindex if isinstance(qindex, int) else qindex[start:stop]
                start = stop
