"""The trunk for fast presets."""

from __future__ import annotations

from train.backbones.compact import CompactTrunk


class TinyTrunk(CompactTrunk):
    """For fast presets, where predicting must cost next to nothing: compact at half its width, one block a map."""

    adapter_channels = (80, 160)
    features = (160,)
    maps = ((32, 1), (80, 1), (160, 1))


TRUNK = TinyTrunk
