"""infer/sessions/engine_record.py: which engine may run where."""

import dataclasses

import pytest

from bundle import BundleFile
from errors import ArtefactError
from infer.sessions.cuda import Gpu
from infer.sessions.engine_record import EngineRecord

RTX = EngineRecord(
    runtime="tensorrt-rtx",
    version="1.7.1.116",
    sm=89,
    gpu="",
    version_compatible=False,
    hardware_compatible="",
    min_batch=1,
    opt_batch=8160,
    max_batch=65536,
    onnx="model.fp16.onnx",
    onnx_sha256="0" * 64,
    inputs="1" * 64,
    layers={"MATRIX_MULTIPLY float16": 28},
    engine_layers={},
    log="model.fp16.sm89.tensorrt-rtx-1.7.1.log",
    rebuild="cli.py export --engine tensorrt-rtx",
)
FULL = dataclasses.replace(RTX, runtime="tensorrt", version="10.9.0.34", gpu="NVIDIA L4")
L4, L40, H200 = Gpu("NVIDIA L4", 89, "13.0"), Gpu("NVIDIA L40", 89, "13.0"), Gpu("NVIDIA H200", 90, "13.0")
T4, B200 = Gpu("Tesla T4", 75, "13.0"), Gpu("NVIDIA B200", 100, "13.0")


def change(record, **values):
    return dataclasses.replace(record, **values)


@pytest.mark.parametrize(
    ("record", "version", "gpu", "why"),
    [
        (RTX, "1.7.1.116", L4, ""),
        (RTX, "1.7.1.200", L40, ""),  # the release counts, and of the GPU the compute capability alone
        (RTX, "1.7.2.1", L4, "built by tensorrt-rtx 1.7.1.116, and 1.7.2.1 is installed"),
        (RTX, "1.6.0", L4, "built by tensorrt-rtx"),
        (RTX, "1.7.1.116", H200, "compute capability 8.9, and this is NVIDIA H200 of 9.0"),
        (FULL, "10.9.0.34", L4, ""),
        (FULL, "10.9.0.34", L40, "compute capability 8.9 on NVIDIA L4, and this is NVIDIA L40 of 8.9"),
        (FULL, "10.10.0.1", L4, "built by tensorrt 10.9.0.34, and 10.10.0.1 is installed"),
        (change(FULL, hardware_compatible="same-compute-capability"), "10.9.0.34", L40, ""),
        (change(FULL, hardware_compatible="same-compute-capability"), "10.9.0.34", H200, "compute capability 8.9"),
        (change(FULL, hardware_compatible="ampere-plus"), "10.9.0.34", H200, ""),
        (change(FULL, hardware_compatible="ampere-plus"), "10.9.0.34", B200, ""),
        (change(FULL, hardware_compatible="ampere-plus"), "10.9.0.34", T4, "and this is Tesla T4"),
        (change(FULL, version_compatible=True), "10.10.0.1", L4, ""),
        (change(FULL, version_compatible=True), "11.0.0", L4, ""),
        (change(FULL, version_compatible=True), "10.8.0", L4, "10.8.0 is installed"),
        (change(FULL, version_compatible=True, version="9.1.0"), "10.0.0", L4, "10.0.0 is installed"),
        (change(FULL, version_compatible=True), "12.0.0", L4, "12.0.0 is installed"),
    ],
)
def test_an_engine_runs_where_it_may_and_nowhere_else(record, version, gpu, why):
    refusal = record.refusal(version, gpu)
    assert (why in refusal) if why else refusal == ""


def test_a_record_comes_back_from_the_manifest():
    assert EngineRecord.of("a.engine", BundleFile("0" * 64, "engine", engine=RTX.to_dict())) == RTX


@pytest.mark.parametrize(
    "values",
    [{}, RTX.to_dict() | {"sm": "89"}, RTX.to_dict() | {"more": 1}, RTX.to_dict() | {"min_batch": True}],
)
def test_a_malformed_record_is_an_artefact_error(values):
    with pytest.raises(ArtefactError, match=r"record of a\.engine is malformed"):
        EngineRecord.of("a.engine", BundleFile("0" * 64, "engine", engine=values))
