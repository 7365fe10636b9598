"""What a model is compiled for: four targets, each with its passes in order and the layout that its runtime is fast at.

    ONNXRUNTIME_CPU    fold ─► tabulate ─► merge heads ─► prune ─► lower ─► distribute
    ONNXRUNTIME_CUDA   the same, in float16: ─► offsets ─► fp16
    C                  as the first, every convolution a product, by operations that read and write rows alone
    CUBLASLT           as the second without offsets: its products add their bias for nothing

Each pass is a function model -> model that computes the same map, with a slow twin in its test. Merging the heads and
what follows it reads one node's features as one row. A model of several levels keeps its convolutions, since the dense
matrix of one at 16x16 cells would take gigabytes:

    fold ─► tabulate ─► prune (─► fp16)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from compiler.layer_cost import CPU_RATES, CUDA_RATES, Rates, chooser
from compiler.passes.carry_offsets import carry_offsets
from compiler.passes.distribute_products import distribute_products
from compiler.passes.fold_batch_norm import fold_model
from compiler.passes.lower_to_products import Layout, lower_model
from compiler.passes.merge_heads import HeadsMergedModel
from compiler.passes.narrow_to_half import NarrowedModel
from compiler.passes.prune_taps import prune_model
from compiler.passes.scale_rows import RowsScaledModel
from compiler.passes.tabulate_qindex import tabulate_model
from description import Task

LOWER = ("auto", "conv", "gemm")


@dataclass(frozen=True)
class Setting:
    """What a pass is told beside the model.

    Attributes:
        task: what the model reads and answers.
        lower: one of LOWER.
        layout: of the target.
        rates: of the target's runtime.
        example: arguments of the model's forward, for a batch of a few blocks.
    """

    task: Task
    lower: str
    layout: Layout
    rates: Rates
    example: tuple[Tensor, ...]


@dataclass(frozen=True)
class Pass:
    """One step.

    Attributes:
        name: as manifests list it; empty for what only puts the scaling of the input in front. `{lower}` stands for the
            option of that name.
        run: from a model and a setting to the model that takes its place.
        reads: what the new model reads: "blocks" as they are, a "map" in units of 8-bit samples, or that map as a
            "row"; empty for what the old one read.
        every_task: whether it takes models of several levels too.
    """

    name: str
    run: Callable[[Any, Setting], nn.Module]
    reads: str = ""
    every_task: bool = False


FOLD = Pass("fold", lambda model, _: fold_model(model), every_task=True)
TABULATE = Pass("tabulate", lambda model, _: tabulate_model(model), every_task=True)
MERGE_HEADS = Pass("merge-heads", lambda model, _: HeadsMergedModel(model).eval(), reads="map")
PRUNE = Pass("prune", lambda model, setting: prune_model(model, setting.example), every_task=True)
SCALE = Pass("", lambda model, s: RowsScaledModel(model, s.layout.dtype, s.task.input).eval(), reads="blocks")


def _lower(model: nn.Module, setting: Setting) -> nn.Module:
    return lower_model(model, setting.example, chooser(setting.lower, setting.rates), setting.layout)


def _distribute(lowered: fx.GraphModule, _: Setting) -> nn.Module:
    distribute_products(lowered)
    return lowered


def _offsets(lowered: fx.GraphModule, setting: Setting) -> nn.Module:
    carry_offsets(lowered, setting.layout.dtype)
    return lowered


def _narrow(model: Any, setting: Setting) -> nn.Module:
    return SCALE.run(model, setting) if setting.task.one_node else NarrowedModel(model).eval()


LOWER_TO_PRODUCTS = Pass("lower-{lower}", _lower, reads="row")
DISTRIBUTE = Pass("distribute", _distribute)
OFFSETS = Pass("offsets", _offsets)
FP16 = Pass("fp16", _narrow, reads="blocks", every_task=True)

_TO_PRODUCTS = (FOLD, TABULATE, MERGE_HEADS, PRUNE, LOWER_TO_PRODUCTS, DISTRIBUTE)


@dataclass(frozen=True)
class Target:
    """What a model is compiled for.

    Attributes:
        name: of the runtime.
        passes: in order.
        layout: of the lowered graph.
        rates: by which "auto" chooses.
        lower: one of LOWER, where nothing else is asked for.
    """

    name: str
    passes: tuple[Pass, ...]
    layout: Layout
    rates: Rates
    lower: str = "auto"

    def passes_for(self, task: Task) -> tuple[Pass, ...]:
        """Those that take a model of that task."""
        return tuple(each for each in self.passes if each.every_task or task.one_node)


ONNXRUNTIME_CPU = Target("onnxruntime CPU", (*_TO_PRODUCTS, SCALE), Layout(), CPU_RATES)
ONNXRUNTIME_CUDA = Target(
    "onnxruntime CUDA",
    (*_TO_PRODUCTS, OFFSETS, FP16),
    Layout(torch.float16, order="channel", maximum_by_index=True),
    CUDA_RATES,
)
C = Target("C", (*_TO_PRODUCTS, SCALE), Layout(rows_alone=True), CPU_RATES, lower="gemm")
CUBLASLT = Target("cuBLASLt", (*_TO_PRODUCTS, FP16), Layout(torch.float16), CUDA_RATES, lower="gemm")
