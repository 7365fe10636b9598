"""Each step of the compiler alone and all together, on real pairs, beside the model that was never touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compiler.compile import compile_model
from compiler.targets import CUBLASLT, ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, C
from description import task_of_border
from export.certify import sample_pairs
from infer.parity import compare, judge
from tests import helpers
from train.checkpoint import open_run
from train.config import TrainConfig, TrainTask
from train.evaluate import with_sharpness
from train.model import ModelConfig, PartitionModel, luma_channels
from train.run import train_run

STEPS = {"fold", "tabulate", "merge-heads", "prune", "distribute"}
BATCH = 8160


def logits_of_every_step(model, lower: str, blocks, qindex) -> dict[str, np.ndarray]:
    """By step, float32 [N, 14]; a step takes raw blocks, scaled maps or rows, as its example arguments do."""
    found: dict[str, np.ndarray] = {}
    form = model.config.form

    def observe(step, made, arguments):
        shape = arguments[0].shape[1:]
        raw = arguments[0].dtype == torch.uint8
        parts = []
        for start in range(0, len(blocks), BATCH):
            part = blocks[start : start + BATCH]
            with torch.no_grad():
                part = part if raw else luma_channels(part.float(), form).reshape(-1, *shape)
                parts.append(made(part, qindex[start : start + BATCH]))
        found[step] = torch.cat(parts).numpy()

    compile_model(model, ONNXRUNTIME_CPU, lower, observe=observe)
    return found


def check(model, lower: str, blocks, qindex) -> None:
    found = logits_of_every_step(model, lower, torch.from_numpy(blocks), torch.from_numpy(qindex.astype(np.int32)))
    expected = found.pop("trained")
    assert set(found) == STEPS | {f"lower-{lower}"}
    assert expected.std(0).mean() > 0.3, "logits that hardly move would prove nothing"
    for step, got in found.items():
        report = compare(expected, got, qindex)
        assert judge(report, "compiled") == [], f"{step}: {report.summary()}"


def randomised(trunk: str, blocks, qindex, border: int = 0):
    torch.manual_seed(0)
    pairs = torch.from_numpy(blocks[:512]), torch.from_numpy(qindex[:512].astype(np.int32))
    model = helpers.make_randomised(PartitionModel(ModelConfig(trunk, task=task_of_border(border))), 0, *pairs)
    return with_sharpness(model, np.random.default_rng(0).uniform(0.7, 1.4, (256, 14)).astype(np.float32))


@pytest.mark.parametrize(
    ("trunk", "lower"),
    [("tiny", "auto"), ("tiny", "gemm"), ("compact", "auto"), ("accurate", "auto"), ("resnet18", "gemm")],
)
def test_every_step_is_exact_on_real_pairs(real_blocks, trunk, lower):
    blocks, qindex, _ = real_blocks
    model = randomised(trunk, blocks, qindex)
    count = 2048 if trunk in ("tiny", "compact") else 512
    check(model, lower, blocks[:count], qindex[:count])


@pytest.mark.parametrize(
    ("trunk", "lower"),
    [("tiny", "auto"), ("compact", "auto"), ("compact", "gemm"), ("accurate", "auto"), ("resnet18", "gemm")],
)
def test_every_step_is_exact_with_a_border(wide_blocks, trunk, lower):
    blocks, qindex, _ = wide_blocks
    check(randomised(trunk, blocks, qindex, border=8), lower, blocks[:512], qindex[:512])


@pytest.mark.parametrize("target", [ONNXRUNTIME_CUDA, C, CUBLASLT], ids=lambda t: t.name)
def test_a_border_adds_an_input_and_changes_nothing_behind_the_first_product(trained_like, target):
    """Also in the forms with a mean subtracted apart: one more matrix is read, of the same number of outputs."""
    plain, wide = (compile_model(trained_like(border=border), target)[0] for border in (0, 8))
    shapes = [[tuple(b.shape) for b in m.core.buffers()] for m in (plain, wide)]
    assert len(shapes[0]) == len(shapes[1])
    changed = [(a, b) for a, b in zip(*shapes, strict=True) if a != b]
    assert changed and all(a[0] == 256 and b[0] == 512 and a[1:] == b[1:] for a, b in changed)


@pytest.mark.parametrize(("precision", "largest", "mean"), [("fp32", 3e-4, 3e-5), ("fp16", 0.4, 0.03)])
@pytest.mark.parametrize("depth", [8, 10])
def test_bordered_blocks_of_any_depth_in_either_precision(trained_like, wide_blocks, precision, largest, mean, depth):
    blocks, qindex = wide_blocks[0][:512].astype(np.int32) << (depth - 8), wide_blocks[1][:512]
    given = torch.from_numpy(blocks if depth > 8 else blocks.astype(np.uint8)), torch.from_numpy(qindex)
    model = trained_like(border=8)
    compiled, _ = compile_model(model, ONNXRUNTIME_CUDA if precision == "fp16" else ONNXRUNTIME_CPU)
    with torch.no_grad():
        expected, found = model(*given, depth), compiled(*given, depth).float()
        as_graph = compiled(given[0].int(), given[1], torch.tensor(depth, dtype=torch.int32)).float()
    for logits in (found, as_graph):
        error = (logits - expected).abs()
        assert error.max() < largest and error.mean() < mean


def test_another_mean_than_the_blocks_would_be_seen(trained_like, wide_blocks):
    """The lowered graph subtracts the first channel's mean: a brighter border changes no more than it should."""
    blocks, qindex = (torch.from_numpy(a[:64]) for a in wide_blocks[:2])
    brighter = blocks.clone()
    brighter[:, :8] = brighter[:, :8] // 2 + 100
    model = trained_like(border=8)
    compiled, _ = compile_model(model, ONNXRUNTIME_CPU, "gemm")
    with torch.no_grad():
        assert (model(brighter, qindex) - model(blocks, qindex)).abs().max() > 0.1
        torch.testing.assert_close(compiled(brighter, qindex), model(brighter, qindex), rtol=0, atol=3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["tiny", "compact", "accurate", "resnet18"])
@pytest.mark.parametrize("weights", ["randomised", "trained"])
def test_every_step_is_exact_on_every_labelled_pair_of_the_sample(real_blocks, tiny_dataset, tmp_path, trunk, weights):
    if weights == "trained":
        config = TrainConfig(model=ModelConfig(trunk), epochs=8, batch_size=32)
        train_run(TrainTask(config, tiny_dataset, tmp_path, device="cpu"), lambda *_: None, lambda _: None)
        model = open_run(tmp_path).model.eval()
    else:
        model = randomised(trunk, *real_blocks[:2])
    pairs = sample_pairs()
    assert len(pairs.block) == 92_716
    check(model, "auto", pairs.blocks[pairs.block], pairs.qindex)
