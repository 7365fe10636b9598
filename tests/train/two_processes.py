"""What each process that torchrun starts does in test_run.py: train, and save what it holds after every stage.

torchrun --nproc-per-node 2 -m tests.train.two_processes DATASET OUTPUT
"""

import os
import sys
from pathlib import Path

import torch

import train.run
from train.config import TrainConfig, TrainTask
from train.loop import StageLoop


class WatchedLoop(StageLoop):
    def restore_best(self):
        super().restore_best()
        rank = self.world.rank
        torch.save(self.net.model.state_dict(), output / f"rank{rank}_stage{self.stage.number}.pt")


dataset, output = map(Path, sys.argv[1:])
torch.set_num_threads(1)
torch.manual_seed(int(os.environ["RANK"]))  # different on purpose: the run must not depend on it
train.run.StageLoop = WatchedLoop
config = TrainConfig(epochs=2, batch_size=32)
train.run.train_run(TrainTask(config, dataset, output / "run", device="cpu"), lambda *_: None, lambda _: None)
