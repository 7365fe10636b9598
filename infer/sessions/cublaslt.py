"""Matrix products with what follows them, one kernel each, by NVIDIA's cuBLASLt: D = relu(x W + bias + residual).

PyTorch and ONNX Runtime give bias, sum and ReLU kernels of their own, which at a thousand columns cost as much as the
product. The library is the one that PyTorch has loaded; its C API is called directly (cuBLAS documentation, "Using the
cuBLASLt API"). Which of its algorithms is fastest for a shape is measured once for a GPU and library version and kept
in a file, so that later runs on the machine compute the same bits.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import MissingComponentError
from files import write_atomically

WORKSPACE_BYTES = 32 << 20
_CANDIDATES = 16
_ROUNDS = 10
_R_32F, _R_16F, _COMPUTE_32F = 0, 2, 68
_TRANSA, _EPILOGUE, _BIAS_POINTER, _BIAS_TYPE = 3, 7, 8, 26
_EPILOGUE_DEFAULT, _EPILOGUE_RELU, _EPILOGUE_BIAS = 1, 2, 4
_MAX_WORKSPACE = 1


class _Heuristic(ctypes.Structure):
    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


Operands = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]
"""x, weight, bias, residual, and the result to write."""


@dataclass(frozen=True)
class Shape:
    """What decides a plan: x is [rows, inner], the result [rows, columns]."""

    rows: int
    inner: int
    columns: int
    bias: bool
    residual: bool
    relu: bool

    def key(self) -> str:
        """In the file of measured choices."""
        flags = "".join(name for name, on in (("b", self.bias), ("r", self.residual), ("a", self.relu)) if on)
        return f"{self.rows}x{self.inner}x{self.columns}{flags and '-' + flags}"


class CublasLt:
    """The library on the current GPU, with a plan for each shape met.

    Raises:
        MissingComponentError: if the library is not there.
    """

    def __init__(self, cache: Path | None = None) -> None:
        """Args:
        cache: folder for the measured choices; None for the user's cache folder.
        """
        name = f"libcublasLt.so.{str(torch.version.cuda).split('.')[0]}"
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise MissingComponentError(f"{name} is not there", "pip install torch with CUDA") from None
        self._library.cublasLtGetVersion.restype = c_size_t
        self._handle = c_void_p()
        _check(self._library.cublasLtCreate(byref(self._handle)))
        gpu = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower())
        folder = cache or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "av1-partition-toolkit"
        self.choices = Choices(folder / f"cublaslt-{gpu}-{self._library.cublasLtGetVersion()}.json")
        self._plans: dict[Shape, _Plan] = {}

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
        """relu(x weight^T + bias + residual), float16 [rows, columns], on the current stream.

        Args:
            x: float16 [rows, inner], contiguous, on the GPU.
            weight: float16 [columns, inner], contiguous; both divisible by 8.
            bias: float16 [columns], or None.
            residual: float16 [rows, columns], or None.
            relu: whether to cut below 0.
        """
        out = torch.empty(len(x), len(weight), dtype=torch.float16, device=x.device)
        shape = Shape(len(x), x.shape[1], len(weight), bias is not None, residual is not None, relu)
        if (plan := self._plans.get(shape)) is None:
            plan = self._plans[shape] = _Plan(self._library, self._handle, shape)
            plan.chosen = self._choose(plan, shape, (x, weight, bias, residual, out))
        plan.run(x, weight, bias, residual, out)
        return out

    def _choose(self, plan: _Plan, shape: Shape, operands: Operands) -> int:
        chosen = self.choices.get(shape.key())
        if chosen is None or chosen >= plan.count:
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(f"{shape} is captured before it ran")
            with self.choices.locked():
                if (chosen := self.choices.get(shape.key())) is None:
                    chosen = plan.fastest(operands)
                    self.choices.put(shape.key(), chosen)
        return chosen


class _Plan:
    """Descriptors of one shape, and the library's candidates for it, best guess first.

    The library's matrices are column-major, so it is asked for D^T = W x^T, where each of our rows is a column.
    """

    def __init__(self, library: ctypes.CDLL, handle: c_void_p, shape: Shape) -> None:
        self._library, self._handle = library, handle
        self._operation = c_void_p()
        _check(library.cublasLtMatmulDescCreate(byref(self._operation), _COMPUTE_32F, _R_32F))
        self._set(_TRANSA, c_int(1))
        epilogue = (_EPILOGUE_RELU if shape.relu else 0) | (_EPILOGUE_BIAS if shape.bias else 0)
        self._set(_EPILOGUE, c_int(epilogue or _EPILOGUE_DEFAULT))
        if shape.bias:
            self._set(_BIAS_TYPE, c_int(_R_16F))
        self._weight = self._layout(shape.inner, shape.columns)
        self._x = self._layout(shape.inner, shape.rows)
        self._out = self._layout(shape.columns, shape.rows)
        preference = c_void_p()
        _check(library.cublasLtMatmulPreferenceCreate(byref(preference)))
        limit = c_uint64(WORKSPACE_BYTES)
        _check(library.cublasLtMatmulPreferenceSetAttribute(preference, _MAX_WORKSPACE, byref(limit), c_size_t(8)))
        self._candidates, found = (_Heuristic * _CANDIDATES)(), c_int()
        _check(
            library.cublasLtMatmulAlgoGetHeuristic(
                handle,
                self._operation,
                self._weight,
                self._x,
                self._out,
                self._out,
                preference,
                _CANDIDATES,
                self._candidates,
                byref(found),
            )
        )
        library.cublasLtMatmulPreferenceDestroy(preference)
        self.count, self.chosen = found.value, 0
        if not self.count:
            raise RuntimeError(f"cuBLASLt has no algorithm for {shape}")

    def _layout(self, rows: int, columns: int) -> c_void_p:
        layout = c_void_p()
        sizes = c_uint64(rows), c_uint64(columns), c_int64(rows)
        _check(self._library.cublasLtMatrixLayoutCreate(byref(layout), _R_16F, *sizes))
        return layout

    def _set(self, attribute: int, value: Any) -> None:
        size = c_size_t(ctypes.sizeof(value))
        _check(self._library.cublasLtMatmulDescSetAttribute(self._operation, attribute, byref(value), size))

    def run(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        out: Tensor,
        candidate: int | None = None,
    ) -> None:
        """Enqueue on the current stream; `candidate` in place of the chosen one while measuring."""
        if bias is not None:
            self._set(_BIAS_POINTER, c_void_p(bias.data_ptr()))
        workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=x.device)
        added = out if residual is None else residual
        _check(
            self._library.cublasLtMatmul(
                self._handle,
                self._operation,
                byref(c_float(1.0)),
                c_void_p(weight.data_ptr()),
                self._weight,
                c_void_p(x.data_ptr()),
                self._x,
                byref(c_float(0.0 if residual is None else 1.0)),
                c_void_p(added.data_ptr()),
                self._out,
                c_void_p(out.data_ptr()),
                self._out,
                byref(self._candidates[self.chosen if candidate is None else candidate].algorithm),
                c_void_p(workspace.data_ptr()),
                c_size_t(WORKSPACE_BYTES),
                c_void_p(torch.cuda.current_stream().cuda_stream),
            )
        )

    def fastest(self, operands: Operands) -> int:
        """The candidate that takes the least time on these operands."""
        best, shortest = 0, float("inf")
        for candidate in range(self.count):
            if self._candidates[candidate].state:
                continue
            self.run(*operands, candidate)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(_ROUNDS):
                self.run(*operands, candidate)
            end.record()
            end.synchronize()
            if (seconds := start.elapsed_time(end)) < shortest:
                best, shortest = candidate, seconds
        return best


class Choices:
    """Which algorithm was measured fastest, by shape, in a JSON file that processes share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._read()

    def get(self, key: str) -> int | None:
        """The choice for a shape, if it is known."""
        return self._known.get(key)

    def put(self, key: str, choice: int) -> None:
        """Note a choice; called within `locked`."""
        self._known[key] = choice
        write_atomically(self._path, (json.dumps(self._known, indent=0, sort_keys=True) + "\n").encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; what others noted meanwhile is read first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._known = self._read() | self._known
            yield

    def _read(self) -> dict[str, int]:
        try:
            known = json.loads(self._path.read_text())
            return {str(key): int(choice) for key, choice in known.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # a cache: what cannot be read is measured again


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLASLt failed with status {status}")


_instances: dict[int, CublasLt] = {}


@torch.library.custom_op("av1_partition::product", mutates_args=())
def product(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """relu(x weight^T + bias + residual): by cuBLASLt on a GPU, by its slow twin elsewhere.

    Args: as CublasLt.product.
    """
    if not x.is_cuda:
        return slow_product(x, weight, bias, residual, relu)
    if (library := _instances.get(x.get_device())) is None:
        library = _instances[x.get_device()] = CublasLt()
    return library.product(x.contiguous(), weight, bias, None if residual is None else residual.contiguous(), relu)


@product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def slow_product(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """The same by PyTorch's own operations, in any dtype."""
    y = x @ weight.T
    y = y if bias is None else y + bias
    y = y if residual is None else y + residual
    return torch.relu(y) if relu else y
