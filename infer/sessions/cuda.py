"""The CUDA driver through ctypes: which GPU is there, and its memory, for the TensorRT sessions.

libcuda.so.1 is wherever an engine can load; torch and cuda-python need not be. Names and meaning of the calls are the
CUDA driver API's.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from errors import MissingComponentError

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it.

    Attributes:
        name: such as "NVIDIA GeForce RTX 4090".
        sm: compute capability times ten, such as 89 or 120.
        driver: the newest CUDA version that the driver serves, such as "13.0".
    """

    name: str
    sm: int
    driver: str


def spell_sm(sm: int) -> str:
    """Compute capability as people write it: 89 is "8.9"."""
    return f"{sm // 10}.{sm % 10}"


class Driver:
    """GPU 0 and its primary context, which torch and onnxruntime share.

    Raises:
        MissingComponentError: without a driver or a GPU, or when the driver refuses a call (out of memory, say).
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise MissingComponentError("no CUDA driver is installed", "an engine runs on an NVIDIA GPU only") from None
        self._call("cuInit", ctypes.c_uint(0))
        device, context = ctypes.c_int(0), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._device = device
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        self.enter()

    def enter(self) -> None:
        """Make the context this thread's."""
        self._call("cuCtxSetCurrent", self._context)

    def gpu(self) -> Gpu:
        """What is there."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), self._device)
        version = ctypes.c_int(0)
        self._call("cuDriverGetVersion", ctypes.byref(version))
        driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return Gpu(name.value.decode(), 10 * self._attribute(_MAJOR) + self._attribute(_MINOR), driver)

    def stream(self) -> int:
        """A new stream's handle; it lives as long as the process."""
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), ctypes.c_uint(1))  # 1: does not wait for the default stream
        return int(handle.value or 0)

    def synchronise(self, stream: int) -> None:
        """Wait for all that the stream was given."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def allocate(self, size: int) -> Memory:
        """Device memory of so many bytes."""
        address = ctypes.c_uint64(0)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return Memory(self, int(address.value), size)

    def upload(self, memory: Memory, values: NDArray[Any], stream: int) -> None:
        """Copy an array to the device; it must lie in one piece and live until the stream is synchronised."""
        _check(memory, values)
        source = ctypes.c_void_p(values.ctypes.data)
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(memory.address), source, values.nbytes, stream)

    def download(self, values: NDArray[Any], memory: Memory, stream: int) -> None:
        """Fill an array from the device; it holds the values once the stream is synchronised."""
        _check(memory, values)
        target = ctypes.c_void_p(values.ctypes.data)
        self._copy("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(memory.address), values.nbytes, stream)

    def free(self, address: int) -> None:
        """Give memory back; silently, since at exit the driver may be gone already."""
        with contextlib.suppress(MissingComponentError):
            self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def _copy(self, name: str, target: Any, source: Any, size: int, stream: int) -> None:
        self._call(name, target, source, ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int(0)
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(which), self._device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            reason = (text.value or b"unknown").decode()
            raise MissingComponentError(
                f"the CUDA driver refuses {name}: {reason} ({code})", "nvidia-smi shows GPUs, memory and driver"
            )


class Memory:
    """Device memory that is given back with its last reference."""

    def __init__(self, driver: Driver, address: int, size: int) -> None:
        self.address, self.size = address, size
        weakref.finalize(self, driver.free, address)


def _check(memory: Memory, values: NDArray[Any]) -> None:
    if not values.flags["C_CONTIGUOUS"] or values.nbytes > memory.size:
        raise ValueError(f"an array of {values.nbytes} bytes does not fit {memory.size} bytes in one piece")


def local_gpu() -> Gpu | None:
    """GPU 0, or None without one."""
    try:
        return Driver().gpu()
    except MissingComponentError:
        return None
