"""One process or several: what torchrun's environment says, and the few collective steps that training needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from errors import MissingComponentError, UsageError


@dataclass(frozen=True)
class World:
    """Where this process stands among those that torchrun started; one alone is rank 0 of 1."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def share(self, indices: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch, int64 [ceil or floor of N / size]; never empty if N >= size."""
        return indices[self.rank :: self.size]

    def broadcast(self, value: Any) -> Any:
        """The leader's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wrap(self, net: nn.Module) -> nn.Module:
        """The module, in DistributedDataParallel if there are several processes."""
        if self.size == 1:
            return net
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(net, device_ids=ids)


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one.

    Raises:
        MissingComponentError: if CUDA was asked for and there is none.
        UsageError: for a name that torch does not know.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'", "auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            hint = "use --device cpu, or install a CUDA build of torch and the NVIDIA driver"
            raise MissingComponentError(f"device '{name}' was asked for, torch sees no such GPU", hint)
        device = torch.device("cuda", local_rank if device.index is None else device.index)
    elif device.type != "cpu":
        raise UsageError(f"device '{name}' is not supported", "auto, cpu, cuda or cuda:N")
    return device


@contextmanager
def world(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started (gloo on the CPU, NCCL on GPUs), or stand alone.

    Within, cuDNN takes only algorithms that give the same bits each time, which are as fast here (docs/LOG.md), and
    float32 is float32: what is measured and calibrated on a GPU is then what the CPU says.

    Raises:
        MissingComponentError, UsageError: as pick_device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = pick_device(device_name, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        if size == 1:
            yield World(0, 1, device)
            return
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield World(distributed.get_rank(), size, device)
        finally:
            distributed.destroy_process_group()
