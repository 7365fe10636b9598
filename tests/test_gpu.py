"""What only a GPU can show. Skipped without one; run on it with `python -m pytest -m gpu tests/test_gpu.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from infer.session import cuda_devices

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not cuda_devices(), reason="the driver shows no CUDA GPU")]


def train_tiny(dataset: Path, output: Path, device: str, **settings):
    from train.config import TrainConfig, TrainTask
    from train.run import train_run

    config = dataclasses.replace(TrainConfig(epochs=2, batch_size=64), **settings)
    task = TrainTask(config, dataset, output, device=device)
    return train_run(task, lambda *_: None, lambda _: None)


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_training_on_cuda_learns_what_training_on_the_cpu_does(tiny_dataset, tmp_path, trunk):
    from train.model import ModelConfig

    # The order of the pairs is drawn on the CPU; flips too; dropout is not, so the runs are alike and not the same.
    runs = {
        device: train_tiny(tiny_dataset, tmp_path / device, device, model=ModelConfig(trunk))
        for device in ("cpu", "cuda")
    }
    losses = {d: [e["train_loss"] for e in r["stages"]["1"]["history"]] for d, r in runs.items()}
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=0.1)


def test_a_frozen_trunk_does_not_change_on_cuda(tiny_dataset, tmp_path):
    import torch

    from train.checkpoint import open_run
    from train.config import TrainConfig, TrainTask
    from train.run import train_run

    train_tiny(tiny_dataset, tmp_path / "first", "cuda", stages=(1,))
    config = TrainConfig(stages=(2, 3), epochs=1, batch_size=64)
    task = TrainTask(config, tiny_dataset, tmp_path / "rest", stage1_checkpoint=tmp_path / "first", device="cuda")
    train_run(task, lambda *_: None, lambda _: None)
    before, after = (open_run(tmp_path / name).model.trunk.state_dict() for name in ("first", "rest"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_onnxruntime_on_cuda_agrees_with_the_reference_and_says_that_it_ran_there(bundle_dir, real_blocks):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    from bundle import open_bundle
    from infer.parity import compare, judge
    from infer.session import SessionOptions, open_session

    bundle = open_bundle(bundle_dir)
    blocks, qindex, _ = real_blocks
    session = open_session(bundle, "onnxruntime-cuda", SessionOptions())
    assert session.info.provider == "CUDAExecutionProvider"
    reference = open_session(bundle, "torch", SessionOptions()).predict(blocks, qindex)
    report = compare(reference.logits, session.predict(blocks, qindex).logits, qindex)
    assert judge(report, "fp32") == [], report.summary()
