"""Parity of trained models in the C library with PyTorch, on every labelled pair of the sample, for each set of
instructions that this machine has. Trained models alone: random weights do not keep int8's row."""

from __future__ import annotations

from functools import cache

import pytest

from bundle import open_bundle
from description import BLOCKS
from export.c.blob import write_blob
from export.c.int8 import quantise_program, row_ranges
from export.c.write import _calibration, build_model_program
from export.certify import reference_set
from infer.parity import compare, judge
from infer.sessions.torch_session import open_weights
from tests import helpers
from train.checkpoint import open_run

pytestmark = pytest.mark.slow


@cache
def trained(source: str):
    """The float32 program of a bundle or run, and what PyTorch says of every pair."""
    root = helpers.REPO / source
    if not root.is_dir():
        pytest.skip(f"{source} is not there: cli.py train makes it")
    model = open_run(root).model if source.startswith("runs") else open_weights(open_bundle(root))[0].eval()
    return build_model_program(model), reference_set(model)


@pytest.mark.parametrize("source", ["models/tiny", "models/compact", "runs/default", "runs/resnet18"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_pair_of_the_sample(open_model, source, precision):
    program, pairs = trained(source)
    if precision == "int8":
        program = quantise_program(program, row_ranges(program, _calibration()))
    model = open_model(write_blob(program, BLOCKS, {}, "00" * 32))
    logits, _ = model.predict_blocks(pairs.blocks[pairs.block], pairs.qindex)
    report = compare(pairs.logits, logits, pairs.qindex, pairs.block, pairs.label)
    print(f"{source} {precision} {model.instructions}: {report.summary()}")
    # In float32 as near as the compiled model itself, ten times nearer than files have to be.
    row = "compiled" if precision == "fp32" else "int8"
    assert report.count > 90_000 and not judge(report, row), report.summary()
