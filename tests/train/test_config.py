"""train/config.py: settings that cannot be; and train/distributed.py's small parts."""

import json

import pytest
import torch

from errors import MissingComponentError, UsageError
from train.config import TrainConfig
from train.distributed import World, pick_device, world
from train.model import ModelConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "config",
    [
        {"bn_mode": "half"},
        {"stage1_loss": "triple"},
        {"loss": "hinge"},
        {"sampler": "lucky"},
        {"augmentation": "blur"},
        {"schedule": "step"},
        {"fine_tuning": "none"},
        {"fine_tuning": "full", "stages": (2, 3)},
        {"select": "accuracy"},
        {"autocast": "fp16"},
        {"average": 1.0},
        {"average": -0.1},
        {"average": float("nan")},
        {"distillation": 1.1},
        {"distillation": float("nan")},
        {"calibration_pictures": -1},
        {"covered_weight": 0.0},
        {"covered_weight": 1.5},
        {"covered_weight": float("nan")},
        {"passes": 0},
        {"augmentation": "contrast", "model": ModelConfig("resnet18")},
        {"epochs": 0},
        {"batch_size": 1},
        {"stages": ()},
        {"stages": (1, 3)},
        {"stages": (2, 1)},
        {"stages": (4,)},
    ],
)
def test_impossible_settings_are_refused(config):
    with pytest.raises(ValueError, match=r"epoch|stage|is one of|are one of"):
        TrainConfig(**config)


def test_settings_round_trip_through_json():
    config = TrainConfig(ModelConfig(trunk="resnet18", adapter_reduction=8), stages=(2, 3), loss="poly", seed=7)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(TypeError):
        TrainConfig.from_json(config.to_json() | {"colour": "blue"})


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [16, 17, 23])
def test_processes_share_a_batch_without_overlap(size, count):
    indices = torch.randperm(count)
    shares = [World(rank, size, CPU).share(indices) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1 and min(map(len, shares)) >= 2


def test_devices():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["banana", "mps", "meta", ""])
def test_unknown_devices_are_a_usage_error(name):
    with pytest.raises(UsageError) as error:
        pick_device(name)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99"])
def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingComponentError) as error:
        pick_device(name)
    assert error.value.exit_code == 4 and "--device cpu" in error.value.hint


def test_within_a_world_cudnn_is_on_exact_and_repeatable(monkeypatch):
    """`cudnn.flags` turns cuDNN off unless it is told not to."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    cudnn = torch.backends.cudnn

    def settings():
        return cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32

    before = settings()
    with world("cpu"):
        assert settings() == (True, True, False)
    assert settings() == before


def test_one_process_alone_is_rank_0_of_1(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with world("cpu") as here:
        assert (here.rank, here.size, here.leads) == (0, 1, True)
        assert here.broadcast("x") == "x"
        net = torch.nn.Linear(1, 1)
        assert here.wrap(net) is net
