"""A training step as one CUDA graph: a small network's step is hundreds of short kernels, and starting each from Python
takes longer than running it.

    step 1-3:    run as they are, on a stream of their own      (libraries and optimiser set themselves up)
    step 4:      recorded
    from 4 on:   copy the batch into the graph's own tensors ─► replay

A replay reads and writes fixed addresses, draws fresh dropout from the device's generator (other numbers than an eager
step would), and reads the learning rate from a tensor, so a schedule goes on working.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from train.batches import Batch

WARM_UP = 3
Learn = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]


class GraphedStep:
    """Calls `learn`, from the fourth batch of full size on by replaying a graph of it.

    Args:
        learn: forward, backward and the optimiser's step for one batch; returns the loss and the logits by head. All it
            does must be the same for every batch: no branch on values, no wait for the device.
        size: pairs of a full batch; other batches are learnt as they are.
        optimizer: a capturable one; its learning rates become tensors.
    """

    def __init__(self, learn: Learn, size: int, optimizer: torch.optim.Optimizer) -> None:
        self._learn, self._size, self._optimizer = learn, size, optimizer
        self._stream = torch.cuda.Stream()
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and the logits by head: valid until the next call."""
        if len(batch.label) != self._size:
            return self._learn(batch)
        if self._warm < WARM_UP:
            self._warm += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream), warnings.catch_warnings():
                # Both say that eager steps could be faster; there are three of them.
                warnings.filterwarnings("ignore", message="(?s).*(capturable|AccumulateGrad)")
                result = self._learn(batch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        if self._graph is None:
            self._record(batch)
        for name, own in self._inputs.items():
            own.copy_(getattr(batch, name))
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _record(self, batch: Batch) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=batch.label.device)
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        self._inputs = {name: value.clone() for name, value in values.items() if isinstance(value, Tensor)}
        self._graph = torch.cuda.CUDAGraph()
        # Gradients must be made within the graph, in its own memory.
        self._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._outputs = self._learn(replace(batch, **self._inputs))  # type: ignore[arg-type]
