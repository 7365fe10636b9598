"""What only a GPU can show. Skipped without one; run on it with `python -m pytest -m gpu tests/test_gpu.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from machine import cuda_devices

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not cuda_devices(), reason="the driver shows no CUDA GPU")]


def train_tiny(dataset: Path, output: Path, device: str, **settings):
    from train.config import TrainConfig, TrainTask
    from train.run import train_run

    config = dataclasses.replace(TrainConfig(epochs=2, batch_size=64), **settings)
    task = TrainTask(config, dataset, output, device=device)
    return train_run(task, lambda *_: None, lambda _: None)


@pytest.mark.parametrize(("trunk", "border"), [("compact", 0), ("compact", 8), ("resnet18", 0)])
def test_training_on_cuda_learns_what_training_on_the_cpu_does(tiny_dataset, tmp_path, trunk, border):
    from description import task_of_border
    from train.model import ModelConfig

    # The order of the pairs is drawn on the CPU; flips too; dropout is not, so the runs are alike and not the same.
    task = task_of_border(border)
    runs = {
        device: train_tiny(tiny_dataset, tmp_path / device, device, model=ModelConfig(trunk, task=task))
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
    from infer.open import open_session
    from infer.parity import compare, judge
    from infer.session import SessionOptions

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

    from infer.sessions.cublaslt import CublasLt, slow_product

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
    from infer.open import open_session
    from infer.session import SessionOptions

    return open_session(open_bundle(bundle_dir), "fused", SessionOptions(precision="fp16"))


def test_fused_agrees_with_the_reference_at_every_batch_size(bundle_dir, real_blocks, fused):
    from bundle import open_bundle
    from infer.open import open_session
    from infer.parity import compare, judge
    from infer.session import SessionOptions

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
            assert b.logits.shape == (0, 14)
            np.testing.assert_array_equal(a.probability, b.probability)
            np.testing.assert_array_equal(a.partition, b.partition)


def test_blocks_on_the_gpu_need_no_host(real_blocks, fused):
    import torch

    class Foreign:
        """What another library's array shows of itself."""

        def __init__(self, tensor):
            self._tensor = tensor

        def __dlpack__(self, **options):
            return self._tensor.__dlpack__(**options)

        def __dlpack_device__(self):
            return self._tensor.__dlpack_device__()

    blocks, qindex = (torch.from_numpy(a[:100]).cuda() for a in real_blocks[:2])
    expected = fused.predict(*(a[:100] for a in real_blocks[:2]))
    for make in (lambda t: t, Foreign):
        found = fused.predict_on_device(make(blocks), make(qindex))
        assert all(t.is_cuda for t in found)
        for a, b in zip(found, (expected.logits, expected.probability, expected.partition), strict=True):
            np.testing.assert_array_equal(a.cpu().numpy(), b)
    for wrong in (
        (blocks.cpu(), qindex),
        (blocks.int(), qindex),
        (blocks[:, :8], qindex),
        (blocks, qindex[:3]),
        (blocks[:0], qindex[:0]),
    ):
        with pytest.raises(ValueError, match=r"blocks|qindex"):
            fused.predict_on_device(*wrong)


def test_sessions_in_threads_and_processes_share_the_gpu(bundle_dir, real_blocks, fused):
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from multiprocessing import get_context

    from bundle import open_bundle
    from infer.open import open_session
    from infer.session import SessionOptions

    blocks, qindex, _ = real_blocks
    expected = fused.predict(blocks, qindex)
    sessions = [open_session(open_bundle(bundle_dir), "fused", SessionOptions(precision="fp16")) for _ in range(3)]
    for session in sessions:  # compiling and capturing is one at a time
        session.predict(blocks, qindex)
    with ThreadPoolExecutor(3) as pool:
        for _ in range(20):
            for found in pool.map(lambda s: s.predict(blocks, qindex), sessions):
                np.testing.assert_array_equal(found.logits, expected.logits)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for logits in pool.map(predict_elsewhere, [bundle_dir] * 2, [blocks] * 2, [qindex] * 2):
            np.testing.assert_array_equal(logits, expected.logits)


def predict_elsewhere(bundle_dir, blocks, qindex):
    from bundle import open_bundle
    from infer.open import open_session
    from infer.session import SessionOptions

    return (
        open_session(open_bundle(bundle_dir), "fused", SessionOptions(precision="fp16")).predict(blocks, qindex).logits
    )


def test_a_gpu_without_memory_halves_the_batch(bundle_dir, real_blocks):
    import torch

    from bundle import open_bundle
    from infer.session import SessionOptions
    from infer.sessions.fused_session import FusedSession

    said = []
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(free - (3 << 29), 0), dtype=torch.uint8, device="cuda")
    session = FusedSession(open_bundle(bundle_dir), SessionOptions(precision="fp16"), (1024, 1 << 18), said.append)
    blocks, qindex = np.tile(real_blocks[0], (100, 1, 1)), np.tile(real_blocks[1], 100)
    result = session.predict(blocks, qindex)
    del hog
    assert said and "out of GPU memory" in said[0] and session.pipeline.largest < 1 << 18
    np.testing.assert_array_equal(result.partition[:2048], result.partition[2048:4096])


def test_high_bit_depth_on_the_gpu(bundle_dir, real_blocks):
    from bundle import open_bundle
    from infer.open import open_session
    from infer.parity import compare, judge
    from infer.session import SessionOptions

    bundle = open_bundle(bundle_dir)
    blocks, qindex = real_blocks[0][:512].astype(np.uint16) * 4 + 3, real_blocks[1][:512]
    reference = open_session(bundle, "torch", SessionOptions(10)).predict(blocks, qindex)
    session = open_session(bundle, "fused", SessionOptions(10, "fp16"))
    report = compare(reference.logits, session.predict(blocks, qindex).logits, qindex)
    assert judge(report, "fp16") == [], report.summary()


def test_predict_streams_through_the_gpu(bundle_dir, real_blocks, tmp_path):
    from infer.block_file import open_blocks
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


@pytest.mark.parametrize("name", ["tiny", "compact"])
def test_verify_proves_the_fused_runtime(name):
    """Of the shipped models: of the 512 blocks of a small bundle one flip would be too many."""
    from infer.verify import verify_bundle

    result = verify_bundle(Path(__file__).parent.parent / "models" / name, lambda _: None)
    result.raise_failures()
    [check] = [c for c in result.checks if c.runtime == "fused"]
    assert check.file == "model.safetensors" and check.found is not None and check.found.report.count > 4000


FAILING = """
import sys
import numpy as np, torch
from pathlib import Path
from bundle import open_bundle
from infer.block_file import open_blocks
from infer.session import SessionOptions
from infer.sessions.device_pipeline import Slot
from infer.sessions.fused_session import FusedSession
from infer.stream import predict_stream

root, blocks, output = map(Path, sys.argv[1:])
bundle = open_bundle(root)
session = FusedSession(bundle, SessionOptions(precision="fp16"), (1024,))
launch, count = Slot.launch, 0

def fails_in_the_middle(slot):
    global count
    count += 1
    if count == 20:
        torch.zeros(1, device="cuda")[torch.full((1,), 7, device="cuda")]
    launch(slot)

Slot.launch = fails_in_the_middle
try:
    predict_stream(open_blocks(blocks), 90, session, output, lambda *_: None, bundle.manifest.task)
except Exception as error:
    print(type(error).__name__, *error.__notes__)
"""


def test_a_cuda_error_on_the_way_saves_what_was_finished(bundle_dir, real_blocks, tmp_path):
    import re
    import subprocess
    import sys

    blocks = np.tile(real_blocks[0][:1024], (40, 1, 1))
    np.save(tmp_path / "blocks.npy", blocks)
    arguments = [str(bundle_dir), str(tmp_path / "blocks.npy"), str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, "-c", FAILING, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("DeviceError the first "), (done.stdout, done.stderr[-2000:])
    assert not (tmp_path / "out.npz").exists()
    finished = int(re.search(r"first ([\d,]+) blocks", done.stdout).group(1).replace(",", ""))
    assert 1024 <= finished < 20 * 1024 and finished % 1024 == 0
    with np.load(tmp_path / "out.partial.npz") as saved:
        assert len(saved["partition"]) == finished
        np.testing.assert_array_equal(saved["partition"][:1024], saved["partition"][-1024:])


@pytest.mark.parametrize("name", ["tiny", "compact", "accurate-context"])
def test_every_runtime_on_the_gpu_agrees_with_the_reference_on_a_shipped_model(
    name, real_blocks, wide_blocks, tmp_path
):
    """Of a model that a few steps trained, so many blocks are near ties that one flip more or less decides."""
    from bundle import open_bundle
    from export.run import ExportTask, export_run
    from infer.open import open_session
    from infer.parity import compare, judge
    from infer.session import SessionOptions

    run_dir = Path(__file__).parent.parent / "models" / name
    export_run(ExportTask(run_dir, tmp_path / "b", precisions=("fp32", "fp16"), package="cuda"), lambda _: None)
    bundle = open_bundle(tmp_path / "b")
    blocks, qindex, _ = wide_blocks if bundle.manifest.task.input.border else real_blocks
    reference = open_session(bundle, "torch", SessionOptions()).predict(blocks, qindex)
    runtimes = {"fused": ("fp16",), "aotinductor": ("fp32", "fp16")}
    if "CUDAExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers():
        runtimes["onnxruntime-cuda"] = ("fp32", "fp16")
    for runtime, precisions in runtimes.items():
        for precision in precisions:
            session = open_session(bundle, runtime, SessionOptions(precision=precision, run_code=True))
            assert session.info.device.startswith("cuda") or runtime == "onnxruntime-cuda"
            for count in (1, 65, 2048):
                result = session.predict(blocks[:count], qindex[:count])
                report = compare(reference.logits[:count], result.logits, qindex[:count])
                assert judge(report, precision) == [], (runtime, precision, report.summary())
