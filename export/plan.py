"""What an export is asked for, and what its writers share while it is made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bundle import BundleFile
from compiler.compile import compile_model
from compiler.flops import Cost, cost_table, module_cost
from compiler.targets import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from description import Task
from export.engine_options import EngineOptions
from files import sha256_of, write_atomically
from infer.certificate import ReferenceSet
from progress import Announce, Progress
from train.checkpoint import Run

PRECISIONS = ("fp32", "fp16", "int8")
BIT_DEPTHS = {"uint8": (8,), "int32": (10, 12), "": (8, 10, 12)}
"""At which bit depths a file is certified, by its input form: the int32 form at those that only it serves."""

# What is quantised later, on the graph, has no convolutions: a product of bytes is so much faster.
_TARGETS = {"fp32": (ONNXRUNTIME_CPU, ""), "fp16": (ONNXRUNTIME_CUDA, ""), "int8": (ONNXRUNTIME_CPU, "gemm")}


@dataclass(frozen=True)
class ExportTask:
    """One export.

    Attributes:
        run: the run folder.
        output_dir: the bundle folder.
        fold: fold BatchNorm; without, the BN nodes stay in the graph.
        lower: "conv" keeps convolutions, "gemm" makes every one a matrix product, "auto" chooses by layer.
        precisions: of the files, of PRECISIONS.
        engines: which engines to build of these files; None builds none.
        package: "cpu" or "cuda" for AOTInductor packages for this machine's; "none".
        forms: inputs of the ONNX files: "uint8" for 8 bit, "int32" for every bit depth.
        blob: write blobs of the C library, in those of its precisions that are among `precisions`.
    """

    run: Path
    output_dir: Path
    fold: bool = True
    lower: str = "auto"
    precisions: tuple[str, ...] = ("fp32",)
    engines: EngineOptions | None = None
    package: str = "none"
    forms: tuple[str, ...] = ("uint8", "int32")
    blob: bool = False

    def command(self) -> str:
        """The command line that does the same, but for the engines' own options."""
        paths = f"--run {shlex.quote(str(self.run))} --output-dir {shlex.quote(str(self.output_dir))}"
        fold = " --fold-bn" if self.fold else ""
        package = "" if self.package == "none" else f" --package {self.package}"
        forms = "" if self.forms == ("uint8", "int32") else f" --onnx-input {','.join(self.forms)}"
        blob = " --blob" if self.blob else ""
        precision = ",".join(self.precisions)
        return f"cli.py export {paths}{fold} --lower {self.lower} --precision {precision}{forms}{package}{blob}"


@dataclass(frozen=True)
class Compiled:
    """A compiled model.

    Attributes:
        model: gives logits from (blocks, qindex[, bit_depth]).
        steps: that made it, in order.
        costs: as trained, and after each step.
    """

    model: nn.Module
    steps: tuple[str, ...]
    costs: Mapping[str, Cost]

    def plain_costs(self) -> dict[str, dict[str, int]]:
        """The costs as the manifest keeps them."""
        return {step: asdict(cost) for step, cost in self.costs.items()}


@dataclass
class Work:
    """An export in progress.

    Attributes:
        task: what was asked for.
        run: what is exported.
        root: the folder that is to become the bundle.
        before: the folder of the bundle that it takes the place of, which may hold nothing.
        travelling: the reference's answers that the bundle carries along.
        announce: told what was made.
        progress: told how far the engines are.
        files: what was written so far, by name.
        ranges: of the rows of int8 files, by input form.
    """

    task: ExportTask
    run: Run
    root: Path
    before: Path
    travelling: ReferenceSet
    announce: Announce
    progress: Progress
    files: dict[str, BundleFile] = field(default_factory=dict)
    ranges: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    _compiled: dict[str, Compiled] = field(default_factory=dict)

    @property
    def reads(self) -> Task:
        """What the model reads and answers."""
        return self.run.model.config.task

    @property
    def keep(self) -> dict[str, Any]:
        """The run's thresholds of candidate sets, by share of true types kept."""
        keep: dict[str, Any] = self.run.info.get("evaluation", {}).get("keep", {})
        return keep

    def add(self, name: str, content: bytes, kind: str, precision: str = "", form: str = "", **rest: Any) -> None:
        """Write a file of the bundle.

        Args:
            name: of the file.
            content: of the file.
            kind, precision, form: as BundleFile has them.
            rest: of BundleFile's other fields.

        Raises:
            OutputError: if it cannot be written.
        """
        write_atomically(self.root / name, content)
        self.files[name] = BundleFile(sha256_of(self.root / name), kind, precision, form, **rest)

    def compiled(self, precision: str) -> Compiled:
        """The model compiled for the files of a precision; once."""
        if precision not in self._compiled:
            costs: dict[str, Cost] = {}

            def count(step: str, made: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
                costs[step] = module_cost(made, arguments)

            target, lower = _TARGETS[precision]
            model, steps = compile_model(self.run.model, target, lower or self.task.lower, self.task.fold, count)
            if precision == "int8":
                steps, costs["int8"] = (*steps, "int8"), next(reversed(costs.values()))
            self._compiled[precision] = Compiled(model, steps, costs)
            self.announce(f"compiled for {precision}:\n{cost_table(costs)}")
        return self._compiled[precision]
