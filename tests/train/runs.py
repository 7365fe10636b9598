"""Training runs for tests: short ones on a small dataset, and what is asked of their folders."""

import json

import torch
from safetensors.torch import load_file

import train.run
from train.config import TrainConfig, TrainTask


def silent(*_):
    pass


def config_of(**changes):
    return TrainConfig(**{"epochs": 2, "batch_size": 32} | changes)


def run(dataset, output, progress=silent, announce=silent, task=None, **changes):
    task = TrainTask(config_of(**changes), dataset, output, device="cpu", **(task or {}))
    return train.run.train_run(task, progress, announce)


def weights(root):
    return load_file(root / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def changed(before, after):
    return {k for k in before if not torch.equal(before[k], after[k])}


def interrupt_at(text):
    """A callback that presses Ctrl-C when it is told this."""

    def callback(*args):
        if text in args[-1]:
            raise KeyboardInterrupt

    return callback


def edit_json(root, change):
    values = json.loads((root / "run.json").read_text())
    change(values)
    (root / "run.json").write_text(json.dumps(values))


def everything(finished, **changes):
    """Settings of a run that learns from a teacher, averages its weights and calibrates, and its task."""
    changes = {"distillation": 0.5, "average": 0.8, "calibration_pictures": 1, "augmentation": "contrast"} | changes
    return changes | {"task": {"teachers": (finished,)}}
