"""The C library built once, and blobs of the models that the other tests use."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from description import BLOCKS
from errors import MissingComponentError
from export.c.blob import write_blob
from export.c.int8 import quantise_program, row_ranges
from export.c.write import SOURCE_DIR, SOURCES, build_model_program
from infer.sessions.c_library import CModel, open_library
from tests import helpers
from train.model import ModelConfig, PartitionModel

KEEP = {"0.99": 0.003, "0.98": 0.01, "0.95": 0.05}
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=fast")
INSTRUCTIONS = ("base", "avx2", "avx512", "avx512vnni")
LIBRARY = tuple(SOURCE_DIR / name for name in SOURCES if name.endswith(".c") and name != "example.c")
"""What a user compiles."""
TRUNKS = ("tiny", "compact", pytest.param("resnet18", marks=pytest.mark.slow))


def compile_c(target: Path, *words: str | Path, compiler: str = "cc") -> Path:
    """Run a compiler, warnings as errors; returns the target."""
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"{compiler} is not there")
    command = [*compiler.split(), *map(str, words), "-I", str(SOURCE_DIR), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    assert done.stderr == ""
    return target


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """libav1part, optimised, warnings as errors."""
    path = tmp_path_factory.mktemp("libav1part") / "libav1part.so"
    return open_library(compile_c(path, *STRICT, "-O2", "-fPIC", "-shared", *LIBRARY))


@pytest.fixture(params=INSTRUCTIONS)
def open_model(request, library):
    """Opens a blob for each set of instructions that this machine has."""

    def call(blob) -> CModel:
        try:
            model = CModel(library, blob, request.param)
        except MissingComponentError:
            pytest.skip(f"this machine has no {request.param}")
        assert model.instructions == request.param
        return model

    return call


def calibrated_model(real_blocks, **config):
    """A model that says all sorts of things and that float32 computes well."""
    torch.manual_seed(0)
    blocks, qindex = (torch.from_numpy(a[:256]) for a in real_blocks[:2])
    return helpers.make_calibrated(PartitionModel(ModelConfig(**config)), 0, blocks, qindex)


@pytest.fixture(scope="session")
def programs(real_blocks):
    """Of a trunk: the model, its program, and that in int8."""

    @cache
    def make(trunk: str):
        rows, qindex = real_blocks[0].reshape(-1, 256).astype(np.float32), real_blocks[1]
        model = calibrated_model(real_blocks, trunk=trunk)
        program = build_model_program(model)
        return model, program, quantise_program(program, row_ranges(program, [(rows[:512], qindex[:512])]))

    return make


@pytest.fixture(scope="session")
def blobs(programs):
    """Of a trunk and a precision."""

    @cache
    def make(trunk: str, precision: str) -> bytes:
        return write_blob(programs(trunk)[("model", "fp32", "int8").index(precision)], BLOCKS, KEEP, "ab" * 32)

    return make
