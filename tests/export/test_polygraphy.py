"""The exported files under NVIDIA Polygraphy: it reads them, and its comparison with PyTorch's answers passes."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from description import BLOCKS
from export.onnx_writer import build_onnx, onnx_bytes
from infer.sessions.torch_session import reference_prediction
from train.checkpoint import open_run

pytest.importorskip("polygraphy")
from polygraphy.comparator import IterationResult, RunResults
from polygraphy.json import save_json

# Largest differences allowed; partition ids are equal, in fp16 all but near ties.
ALLOWED = {
    "fp32": ("logits:1e-3", "probability:1e-4", "partition:0"),
    "fp16": ("logits:5e-2", "probability:1e-2", "partition:0"),
}
STATISTICS = {"fp32": ("max",), "fp16": ("logits:max", "probability:max", "partition:median")}


@dataclass(frozen=True)
class Case:
    """A file, real blocks as Polygraphy loads them, and PyTorch's answers to them."""

    precision: str
    model: Path
    inputs: Path
    reference: dict[str, np.ndarray]

    def compare(self, reference: dict[str, np.ndarray], *options: str) -> subprocess.CompletedProcess:
        """`polygraphy run --onnxrt` against the reference, in a process of its own."""
        path = self.inputs.with_name("reference.json")
        results = RunResults()
        results.append(("pytorch", [IterationResult(outputs=reference, runtime=0.0, runner_name="pytorch")]))
        results.save(str(path))
        data = ("--load-inputs", self.inputs, "--load-outputs", path)
        limits = ("--rtol", "0", "--atol", *ALLOWED[self.precision], "--check-error-stat", *STATISTICS[self.precision])
        return polygraphy("run", self.model, "--onnxrt", *data, *limits, *options)


def polygraphy(*words: str | Path) -> subprocess.CompletedProcess:
    """Run its command line."""
    command = [str(Path(sys.executable).with_name("polygraphy")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module", params=list(ALLOWED))
def case(request, run_dir, real_blocks, tmp_path_factory):
    root, model = tmp_path_factory.mktemp("polygraphy"), open_run(run_dir).model
    blocks, qindex, _ = (part[:256] for part in real_blocks)
    compiled, _ = compile_model(model, {"fp32": ONNXRUNTIME_CPU, "fp16": ONNXRUNTIME_CUDA}[request.param])
    (root / "model.onnx").write_bytes(onnx_bytes(build_onnx(compiled, "uint8", {"semantics": "{}"}, BLOCKS)))
    save_json([{"blocks": blocks, "qindex": qindex}], str(root / "inputs.json"))
    answers = reference_prediction(model, blocks, qindex, 8)
    partition = answers.partition.astype(np.int32)
    reference = {"logits": answers.logits, "probability": answers.probability, "partition": partition}
    return Case(request.param, root / "model.onnx", root / "inputs.json", reference)


def test_inspect_reads_inputs_and_outputs(case):
    ended = polygraphy("inspect", "model", case.model)
    assert ended.returncode == 0, ended.stderr
    for value in (
        r"blocks \[dtype=uint8, shape=\('N', 16, 16\)\]",
        r"qindex \[dtype=int32, shape=\('N',\)\]",
        r"logits \[dtype=float32, shape=\('N', 14\)\]",
        r"probability \[dtype=float32, shape=\('N', 10\)\]",
        r"partition \[dtype=int32, shape=\('N',\)\]",
    ):
        assert re.search(value, ended.stdout), value


@pytest.mark.parametrize("optimised", [True, False])
def test_onnxruntime_agrees_with_pytorch_with_and_without_its_optimiser(case, optimised):
    options = () if optimised else ("--graph-optimization-level", "ORT_DISABLE_ALL")
    ended = case.compare(case.reference, *options)
    assert ended.returncode == 0, ended.stdout
    assert "onnxrt" in ended.stdout and "PASSED" in ended.stdout


@pytest.mark.parametrize("output", ["logits", "partition"])
@pytest.mark.parametrize("case", ["fp32"], indirect=True)
def test_the_comparison_can_fail(case, output):
    wrong = case.reference[output].copy()
    wrong.reshape(-1)[7] += 1
    ended = case.compare(case.reference | {output: wrong})
    assert ended.returncode != 0 and "FAILED" in ended.stdout
