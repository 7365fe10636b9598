"""machine.py: GPUs are those that the driver shows, whatever else is installed."""

import ctypes

import pytest

from machine import cuda_devices, machine


class Driver:
    def __init__(self, count, init=0, asked=0):
        self.count, self.init, self.asked = count, init, asked

    def cuInit(self, flags):  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, pointer):  # noqa: N802
        pointer._obj.value = self.count
        return self.asked


@pytest.mark.parametrize(
    ("driver", "count"), [(Driver(3), 3), (Driver(0), 0), (Driver(3, init=100), 0), (Driver(3, asked=3), 0)]
)
def test_gpus_are_those_that_the_driver_counts(monkeypatch, driver, count):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert cuda_devices() == count


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert cuda_devices() == 0 and machine()["gpu"] == "none"
