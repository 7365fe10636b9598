"""One run of an experiment: stage 1 of a trunk and seed, or stage 2 of an arm and seed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.dataset import BlockSet
from train.batches import DeviceBlocks
from train.config import TrainConfig
from train.distributed import World
from train.experiments.drift import DriftMeter
from train.experiments.subset import partitioned
from train.loop import StageLoop, predict_logits
from train.measures.judgement import all_heads
from train.model import PartitionModel
from train.stage_net import plain_copy
from train.stages import STAGES

DRIFT_PAIRS = 1024
FIRST, SECOND = STAGES[:2]


@dataclass(frozen=True)
class Data:
    """What every run reads, on its device.

    Attributes:
        train, val: the nodes.
        train2, val2: those that stage 2 has a say in.
    """

    train: DeviceBlocks
    val: DeviceBlocks
    train2: DeviceBlocks
    val2: DeviceBlocks

    @staticmethod
    def of(train: BlockSet, val: BlockSet, device: torch.device) -> Data:
        """From the two sets of nodes."""
        return Data(*(DeviceBlocks(p, device) for p in (train, val, partitioned(train), partitioned(val))))


def run_stage1(config: TrainConfig, data: Data) -> tuple[PartitionModel, dict[str, Any]]:
    """Stage 1 to its last epoch: the model on the CPU, and the history."""
    torch.manual_seed(config.seed)
    device = data.train.device
    loop = StageLoop(PartitionModel(config.model), FIRST, config, data.train, data.val, World(0, 1, device))
    for _ in loop.epochs(_silent):
        pass
    return plain_copy(loop.net.model), {"history": loop.state.history}


def run_arm(config: TrainConfig, stage1: PartitionModel, data: Data) -> dict[str, Any]:
    """Stage 2 of one arm on top of a stage 1.

    Returns:
        macro_f1, log_loss: of stage 2's head on the val nodes that are partitioned, in the epoch kept (0-1, nats);
        train_macro_f1: the same weights on the train nodes, in eval mode, unflipped; gap: the difference of the two;
        last_macro_f1: after the last epoch; best_epoch, epochs_run; loss_variance: of the batches of the kept epoch;
        drift: by epoch (DriftMeter.measure); stage1_before, stage1_after: macro-F1 of stage 1's head on the val
        nodes, before stage 2 and in the epoch kept; history; seconds.
    """
    start = time.perf_counter()
    torch.manual_seed(config.seed)
    model = PartitionModel(config.model)
    kept = SECOND.kept(config.model.task)
    shared = {name: t for name, t in stage1.state_dict().items() if name.startswith(kept)}
    model.load_state_dict(model.state_dict() | shared, strict=True)
    device = data.train.device
    loop = StageLoop(model, SECOND, config, data.train2, data.val2, World(0, 1, device))
    net = loop.net.model
    before = _macro_f1(net, data.val, "stage1")
    fixed = np.linspace(0, len(data.val2) - 1, min(DRIFT_PAIRS, len(data.val2))).astype(np.int64)
    meter = DriftMeter(net, data.val2.batch(torch.from_numpy(fixed).to(device)), data.val2.bit_depth)
    drift = []
    for _ in loop.epochs(_silent):
        drift.append(meter.measure(net))
    loop.restore_best()
    state = loop.state
    best = state.history[state.best_epoch - 1]
    train_f1 = _macro_f1(net, data.train2, "macro")
    return {
        "macro_f1": best["val_macro_f1"],
        "log_loss": best["val_loss"],
        "train_macro_f1": train_f1,
        "gap": train_f1 - best["val_macro_f1"],
        "last_macro_f1": state.history[-1]["val_macro_f1"],
        "best_epoch": state.best_epoch,
        "epochs_run": state.epoch,
        "loss_variance": best["train_loss_variance"],
        "drift": drift,
        "stage1_before": before,
        "stage1_after": _macro_f1(net, data.val, "stage1"),
        "history": state.history,
        "seconds": time.perf_counter() - start,
    }


def _macro_f1(model: PartitionModel, pairs: DeviceBlocks, head: str) -> float:
    return all_heads(predict_logits(model, pairs), pairs.label.cpu().numpy(), pairs.task)[head]["macro_f1"]


def _silent(done: int, total: int, text: str) -> None:
    del done, total, text
