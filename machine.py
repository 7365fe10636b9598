"""What this machine is called: CPU, GPU with its driver, operating system. Asks no library that could be missing."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

_NAME_BYTES = 256


def machine() -> dict[str, str]:
    """Names of what computes here: cpu, gpu ("none" without one) and system."""
    return {"cpu": cpu_name(), "gpu": gpu_name(), "system": f"{platform.system()} {platform.machine()}"}


def cpu_name() -> str:
    """The CPU's model name, as Linux knows it; elsewhere the architecture."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def gpu_name() -> str:
    """The first CUDA GPU and the CUDA version of its driver; "none" if the driver shows none."""
    if not cuda_devices():
        return "none"
    driver = ctypes.CDLL("libcuda.so.1")
    name, version = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int(0)
    driver.cuDeviceGetName(name, _NAME_BYTES, 0)  # device 0: the driver numbers them from 0
    driver.cuDriverGetVersion(ctypes.byref(version))
    return f"{name.value.decode(errors='replace')}, CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def cuda_devices() -> int:
    """How many CUDA GPUs the driver shows; 0 without a driver. Asks the driver alone: neither torch nor onnxruntime."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
