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


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, 256, 1024), (8160, 1024, 1024), (333, 40, 160), (64, 168, 16)]
)
def test_a_product_on_the_gpu_is_its_slow_twin(rows, inner, columns, bias, residual, relu, tmp_path):
    import torch

    from infer.cublaslt import CublasLt, slow_product

    torch.manual_seed(rows + columns)
    x, w, b, r = (torch.randn(s) for s in ((rows, inner), (columns, inner), (columns,), (rows, columns)))
    operands = [t.half() for t in (x, w * inner**-0.5, b, r)]
    operands[2] = operands[2] if bias else None
    operands[3] = operands[3] if residual else None
    expected = slow_product(*[None if t is None else t.double() for t in operands], relu)
    on_gpu = [None if t is None else t.cuda() for t in operands]
    library = CublasLt(tmp_path)
    result = library.product(*on_gpu, relu)
    error = (result.cpu().double() - expected).norm() / expected.norm()
    assert error < 1e-3
    # The choice is on disk: a second process computes the same bits.
    again = CublasLt(tmp_path).product(*on_gpu, relu)
    assert torch.equal(result, again) and len(list(tmp_path.glob("*.json"))) == 1


@pytest.fixture(scope="module")
def fused(bundle_dir):
    from bundle import open_bundle
    from infer.session import SessionOptions, open_session

    return open_session(open_bundle(bundle_dir), "fused", SessionOptions(precision="fp16"))


def test_fused_agrees_with_the_reference_at_every_batch_size(bundle_dir, real_blocks, fused):
    from bundle import open_bundle
    from infer.parity import compare, judge
    from infer.session import SessionOptions, open_session

    blocks, qindex, _ = real_blocks
    reference = open_session(open_bundle(bundle_dir), "torch", SessionOptions()).predict(blocks, qindex)
    for count in (1, 2, 64, 65, 1024, 2048):
        result = fused.predict(blocks[:count], qindex[:count])
        report = compare(reference.logits[:count], result.logits, qindex[:count])
        assert judge(report, "fp16") == [], (count, report.summary())
        assert report.max_abs < 0.05
        np.testing.assert_allclose(result.probability.sum(1), 1, atol=1e-5)


def test_fused_gives_the_same_bits_alone_and_in_flight(real_blocks, fused):
    blocks, qindex, _ = real_blocks
    batches = [(blocks[i : i + 1024], qindex[i : i + 1024]) for i in (0, 1024, 512, 0, 100, 7)]
    alone = [fused.predict(*batch) for batch in batches]
    for _ in range(3):
        for a, b in zip(alone, fused.stream(batches), strict=True):
            np.testing.assert_array_equal(a.logits, b.logits)
            np.testing.assert_array_equal(a.probability, b.probability)
            np.testing.assert_array_equal(a.partition, b.partition)


def test_high_bit_depth_on_the_gpu(bundle_dir, real_blocks):
    from bundle import open_bundle
    from infer.parity import compare, judge
    from infer.session import SessionOptions, open_session

    bundle = open_bundle(bundle_dir)
    blocks, qindex = real_blocks[0][:512].astype(np.uint16) * 4 + 3, real_blocks[1][:512]
    reference = open_session(bundle, "torch", SessionOptions(10)).predict(blocks, qindex)
    session = open_session(bundle, "fused", SessionOptions(10, "fp16"))
    report = compare(reference.logits, session.predict(blocks, qindex).logits, qindex)
    assert judge(report, "fp16") == [], report.summary()


def test_predict_streams_through_the_gpu(bundle_dir, real_blocks, tmp_path):
    from infer.blocks import open_blocks
    from infer.predict import PredictTask, predict_source

    blocks = np.tile(real_blocks[0], (40, 1, 1))
    np.save(tmp_path / "blocks.npy", blocks)
    for runtime, precision in (("fused", "fp16"), ("onnxruntime-cpu", "fp32")):
        task = PredictTask(bundle_dir, tmp_path / f"{runtime}.npz", "90", runtime, precision)
        source = open_blocks(tmp_path / "blocks.npy")
        predict_source(source, task, lambda *_: None, lambda _: None)
    with np.load(tmp_path / "fused.npz") as a, np.load(tmp_path / "onnxruntime-cpu.npz") as b:
        assert (a["partition"] == b["partition"]).mean() > 0.999
        np.testing.assert_allclose(a["probability"], b["probability"], atol=0.02)
