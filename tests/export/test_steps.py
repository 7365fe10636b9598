"""Each step of the compiler alone and all together, on real pairs, beside the model that was never touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.certificate import sample_pairs
from export.compile import CompileOptions, compile_model
from infer.parity import compare, judge
from tests import helpers
from train.checkpoint import open_run
from train.config import TrainConfig, TrainTask
from train.evaluate import with_sharpness
from train.model import ModelConfig, PartitionModel
from train.run import train_run

STEPS = {"fold", "tabulate", "merge-heads", "prune", "distribute"}
BATCH = 8160


def logits_of_every_step(model, lower: str, blocks, qindex) -> dict[str, np.ndarray]:
    """By step, float32 [N, 14]; a step takes raw blocks, scaled maps or rows, as its example arguments do."""
    found: dict[str, np.ndarray] = {}

    def observe(step, made, arguments):
        shape = arguments[0].shape[1:]
        raw = arguments[0].dtype == torch.uint8
        parts = []
        for start in range(0, len(blocks), BATCH):
            part = blocks[start : start + BATCH]
            with torch.no_grad():
                part = part if raw else part.float().reshape(-1, *shape)
                parts.append(made(part, qindex[start : start + BATCH]))
        found[step] = torch.cat(parts).numpy()

    compile_model(model, CompileOptions(lower=lower), observe)
    return found


def check(model, lower: str, blocks, qindex) -> None:
    found = logits_of_every_step(model, lower, torch.from_numpy(blocks), torch.from_numpy(qindex.astype(np.int32)))
    expected = found.pop("trained")
    assert set(found) == STEPS | {f"lower-{lower}"}
    assert expected.std(0).mean() > 0.3, "logits that hardly move would prove nothing"
    for step, got in found.items():
        report = compare(expected, got, qindex)
        assert judge(report, "compiled") == [], f"{step}: {report.summary()}"


def randomised(trunk: str, blocks, qindex):
    torch.manual_seed(0)
    pairs = torch.from_numpy(blocks[:512]), torch.from_numpy(qindex[:512].astype(np.int32))
    model = helpers.make_randomised(PartitionModel(ModelConfig(trunk)), 0, *pairs)
    return with_sharpness(model, np.random.default_rng(0).uniform(0.7, 1.4, (256, 14)).astype(np.float32))


@pytest.mark.parametrize(("trunk", "lower"), [("compact", "auto"), ("accurate", "auto"), ("resnet18", "gemm")])
def test_every_step_is_exact_on_real_pairs(real_blocks, trunk, lower):
    blocks, qindex, _ = real_blocks
    model = randomised(trunk, blocks, qindex)
    count = 2048 if trunk == "compact" else 512
    check(model, lower, blocks[:count], qindex[:count])


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["compact", "accurate", "resnet18"])
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
