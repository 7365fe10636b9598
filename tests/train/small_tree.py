"""A task of two levels for tests of training: blocks of 16 with the node and its four of 8, and a trunk for it."""

from torch import nn
from torch.nn import functional as F

from description import BLOCKS, Head, InputForm, Level, Task, level_of
from partition import Partition
from train.backbones.trunk import MapsTrunk
from train.layers import ConvBN, Film

SMALL_TREE = Task("small tree", InputForm(16), (level_of(16), level_of(8)))
FLAT_TREE = Task(
    "flat tree",
    InputForm(16),
    tuple(
        Level(size, level_of(size).types, (Head("types", tuple(p.name for p in level_of(size).types)),))
        for size in (16, 8)
    ),
)
"""The same nodes with one flat head at each level."""

LOPSIDED = Task(
    "lopsided",
    InputForm(16),
    (Level(16, (Partition.NONE, Partition.HORZ), (Head("types", ("NONE", "HORZ")),)), level_of(8)),
)
"""HORZ without VERT: no transposed block has a label."""

ALL = (BLOCKS, SMALL_TREE, FLAT_TREE)


class SmallTreeTrunk(MapsTrunk):
    """[1,16,16] ─► 8x8/8 ─► [8,2,2], nodes of 8 ─► 2x2/2 ─► [16,1,1], the node of 16."""

    adapter_channels = features = (16, 8)
    head_dropout = (0.1, 0.1)

    def __init__(self, embedding, form):
        super().__init__(embedding, form)
        self.fine, self.coarse = ConvBN(form.channels, 8, 8, 8), ConvBN(8, 16, 2, 2)
        self.films = nn.ModuleList(Film(embedding, c) for c in (8, 16)) if embedding else nn.ModuleList()

    @classmethod
    def takes(cls, form, node_sizes):
        return (form.unit, *node_sizes) == (16, 16, 8)

    def body(self, x, embedding):
        fine = F.relu(self._film(0, self.fine(self._minus_mean(x)), embedding))
        return F.relu(self._film(1, self.coarse(fine), embedding)), fine
