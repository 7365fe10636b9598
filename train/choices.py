"""What training's options may be, where naming it must load no torch."""

from __future__ import annotations

ADAPTERS = ("series", "parallel", "lora", "none")
QINDEX_INPUTS = ("film", "none")
BN_MODES = ("frozen", "train")
STAGE1_LOSSES = ("joint", "binary")
LOSSES = ("cross-entropy", "focal", "cb-focal", "poly", "asymmetric", "label-smoothing")
SAMPLERS = ("natural", "balanced")
AUGMENTATIONS = ("flips", "contrast", "mixup", "cutmix", "none")
FINE_TUNINGS = ("adapters", "full")
SCHEDULES = ("cosine", "plateau")
SELECTIONS = ("loss", "f1")
AUTOCASTS = ("none", "bf16")
EXPERIMENTS = ("bn", "adapter-reduction", "adapters", "loss", "augmentation")
