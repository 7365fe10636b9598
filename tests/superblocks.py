"""A task of four levels and a small trunk for it, for what must hold for any task of several levels."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from torch import nn
from torch.nn import functional as F

from description import InputForm, Task, level_of
from tests import helpers
from train.backbones import TRUNKS
from train.backbones.trunk import MapsTrunk
from train.layers import BasicBlock, ConvBN, Film

SUPERBLOCKS = Task("superblocks-in-a-test", InputForm(64), tuple(map(level_of, (64, 32, 16, 8))))


class PyramidTrunk(MapsTrunk):
    """[1,64,64] ─► minus its mean ─► 8x8/8 ─► [8,8,8] ─► block ─► 2x2/2 ─► ... ─► [8,1,1]; a map for each level."""

    adapter_channels = features = (8, 8, 8, 8)
    head_dropout = (0.1, 0.1)

    def __init__(self, embedding, form):
        super().__init__(embedding, form)
        self.stem = ConvBN(form.channels, 8, 8, 8)
        self.blocks = nn.ModuleList(BasicBlock(8, 8) for _ in range(4))
        self.merges = nn.ModuleList(ConvBN(8, 8, 2, 2) for _ in range(3))
        self.films = nn.ModuleList(Film(embedding, 8) for _ in range(4)) if embedding else ()

    @classmethod
    def takes(cls, form, node_sizes):
        return (form.unit, *node_sizes) == (64, 64, 32, 16, 8)

    def body(self, x, embedding):
        x = self.blocks[0](F.relu(self._film(0, self.stem(self._minus_mean(x)), embedding)))
        maps = [x]
        for i, merge in enumerate(self.merges, 1):
            x = self.blocks[i](F.relu(self._film(i, merge(x), embedding)))
            maps.insert(0, x)
        return tuple(maps)


@contextmanager
def pyramid():
    """Within it the trunk has a name."""
    TRUNKS["pyramid"] = lambda: PyramidTrunk
    try:
        yield
    finally:
        del TRUNKS["pyramid"]


def superblocks_of(sample, count: int = 64):
    """Real superblocks of the sample's val split, uint8 [N, 64, 64], with qindex int32 [N] over all of 0-255."""
    from data.dataset import load_split

    pairs = load_split(sample, "val", SUPERBLOCKS)
    drawn = np.random.default_rng(0).permutation(len(pairs.blocks))[:count]
    return pairs.blocks[drawn], np.linspace(0, 255, len(drawn)).astype(np.int32)


def pyramid_model(blocks, qindex, **config):
    """A model of that task in which every part matters; in eval mode."""
    import torch

    from train.model import ModelConfig, PartitionModel

    torch.manual_seed(0)
    model = PartitionModel(ModelConfig("pyramid", task=SUPERBLOCKS, **config))
    return helpers.make_randomised(model, 0, torch.from_numpy(blocks), torch.from_numpy(qindex))
