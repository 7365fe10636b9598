"""cuda.py against a libcuda of Python: what is asked of it, in what order, and what its refusals become."""

import ctypes
import gc

import numpy as np
import pytest

from errors import MissingComponentError
from infer.sessions.cuda import Driver, Gpu, local_gpu, spell_sm


class LibCuda:
    """A driver whose device memory is the host's."""

    def __init__(self, sm=(8, 9), version=13010, refuse=None):
        self.sm, self.version, self.refuse = sm, version, refuse or {}
        self.blocks, self.calls = {}, []

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            return self.refuse.get(name) or getattr(self, f"_{name}", lambda *_: 0)(*arguments) or 0

        return call

    def _cuDeviceGetName(self, name, size, device):  # noqa: N802
        name.value = b"NVIDIA GeForce RTX 4090"

    def _cuDeviceGetAttribute(self, value, which, device):  # noqa: N802
        value._obj.value = self.sm[which.value - 75]

    def _cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = self.version

    def _cuStreamCreate(self, handle, flags):  # noqa: N802
        handle._obj.value = 0x77

    def _cuMemAlloc_v2(self, address, size):  # noqa: N802
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.blocks[address._obj.value] = block

    def _cuMemFree_v2(self, address):  # noqa: N802
        del self.blocks[address.value]

    def _cuMemcpyHtoDAsync_v2(self, target, source, size, stream):  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)

    def _cuMemcpyDtoHAsync_v2(self, target, source, size, stream):  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)

    def _cuGetErrorString(self, code, text):  # noqa: N802
        text._obj.value = b"out of memory"


@pytest.fixture
def library(monkeypatch):
    def install(**options):
        made = LibCuda(**options)
        monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
        return made

    return install


@pytest.mark.parametrize(("sm", "found"), [((8, 6), 86), ((8, 9), 89), ((9, 0), 90), ((12, 0), 120)])
def test_the_gpu_is_what_the_driver_says(library, sm, found):
    library(sm=sm)
    assert Driver().gpu() == Gpu("NVIDIA GeForce RTX 4090", found, "13.1")
    assert local_gpu() == Driver().gpu()


@pytest.mark.parametrize(("sm", "text"), [(75, "7.5"), (89, "8.9"), (120, "12.0")])
def test_a_compute_capability_is_spelt_as_people_write_it(sm, text):
    assert spell_sm(sm) == text


def test_what_goes_to_the_device_comes_back(library):
    library()
    driver = Driver()
    values = np.arange(60, dtype=np.int32).reshape(3, 20)
    memory, back = driver.allocate(values.nbytes), np.zeros_like(values)
    stream = driver.stream()
    driver.upload(memory, values, stream)
    driver.download(back, memory, stream)
    driver.synchronise(stream)
    assert stream == 0x77 and np.array_equal(back, values)


def test_memory_is_given_back_with_its_last_reference(library):
    made = library()
    driver = Driver()
    memory = driver.allocate(16)
    assert len(made.blocks) == 1 and memory.size == 16
    del memory
    gc.collect()
    assert not made.blocks


@pytest.mark.parametrize("values", [np.zeros(5, np.int32), np.zeros((4, 4), np.uint8)[:, ::2]])
def test_what_does_not_fit_or_lies_apart_is_a_programming_error(library, values):
    made = library()
    driver = Driver()
    memory = driver.allocate(16)
    with pytest.raises(ValueError, match="does not fit"):
        driver.upload(memory, values, 7)
    with pytest.raises(ValueError, match="does not fit"):
        driver.download(values, memory, 7)
    assert not [c for c in made.calls if c.startswith("cuMemcpy")]


@pytest.mark.parametrize("name", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"])
def test_a_driver_without_a_gpu_is_missing(library, name):
    library(refuse={name: 100})
    with pytest.raises(MissingComponentError, match=rf"refuses {name}: out of memory \(100\)") as error:
        Driver()
    assert error.value.hint and local_gpu() is None


def test_full_device_memory_is_named(library):
    library(refuse={"cuMemAlloc_v2": 2})
    with pytest.raises(MissingComponentError, match="cuMemAlloc_v2: out of memory"):
        Driver().allocate(16)


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(MissingComponentError, match="no CUDA driver"):
        Driver()
    assert local_gpu() is None
