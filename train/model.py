"""The hierarchical partition model: three stages, five heads, one forward pass (docs/DESIGN.md, Model).

blocks, qindex ─► scale by bit depth ─► trunk.body ─┬► tail ─► pool ─► stage 1 head: NONE / PARTITIONED
                                                    └► adapter ─► tail ─► adapter ─► pool ─┬► macro head
                                                                                           └► RECT, AB, FOUR
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from partition import BORDERS, HEADS, LOGITS, NODE_SIZE, MacroClass, head_slices
from train.backbones.trunks import TRUNKS, Trunk
from train.layers import ConvAdapter, Head, LowRankAdapter, ParallelAdapter, QindexEmbedding

EMBEDDING_WIDTH = 32
ADAPTERS = ("series", "parallel", "lora", "none")


@dataclass(frozen=True)
class ModelConfig:
    """What decides the shape of a model; stored in run.json and in the manifest.

    Attributes:
        trunk: "tiny", "compact", "accurate" or "resnet18".
        qindex_input: "film", or "none" to leave qindex out as the seed did.
        adapter_reduction: how much narrower the adapters are than what they adapt.
        adapters: "series"; "parallel" to the trunk's tail; "lora", low-rank linear ones in series; or "none" for the
            control that trains heads on the bare frozen trunk.
        temperature: "none", or "qindex" for logits that each head's temperature at the qindex divides.
        border: samples around each 16x16 block that the model sees too: 0 or 8.
    """

    trunk: str = "compact"
    qindex_input: str = "film"
    adapter_reduction: int = 4
    adapters: str = "series"
    temperature: str = "none"
    border: int = 0

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk is one of {', '.join(TRUNKS)}, not {self.trunk!r}")
        if self.qindex_input not in ("none", "film"):
            raise ValueError(f"qindex_input is 'none' or 'film', not {self.qindex_input!r}")
        if self.adapters not in ADAPTERS:
            raise ValueError(f"adapters is one of {', '.join(ADAPTERS)}, not {self.adapters!r}")
        if self.temperature not in ("none", "qindex"):
            raise ValueError(f"temperature is 'none' or 'qindex', not {self.temperature!r}")
        if self.border not in BORDERS:
            raise ValueError(f"border is one of {', '.join(map(str, BORDERS))}, not {self.border!r}")
        narrow = min(TRUNKS[self.trunk].adapter_channels)
        if not 1 <= self.adapter_reduction <= narrow or narrow % self.adapter_reduction:
            raise ValueError(f"adapter_reduction {self.adapter_reduction} does not divide {narrow} channels")

    @property
    def side(self) -> int:
        """Of the blocks that the model reads, in samples: 16, or 32 with a border."""
        return NODE_SIZE + 2 * self.border


def _head_widths(features: int) -> dict[str, tuple[int, ...]]:
    half, quarter = features // 2, features // 4
    inner = {"stage1": (half,), "macro": (half, quarter), "rect": (half,), "ab": (half, quarter), "four": (half,)}
    return {name: (features, *inner[name], len(classes)) for name, classes in HEADS.items()}


def _adapters(config: ModelConfig, channels: tuple[int, int]) -> list[nn.Module]:
    """The adapter at each of the two places, or the one beside the tail."""
    reduction = config.adapter_reduction
    if config.adapters == "parallel":
        return [ParallelAdapter(*channels, reduction)]
    kinds: dict[str, type[nn.Module]] = {"series": ConvAdapter, "lora": LowRankAdapter}
    return [kinds[config.adapters](c, reduction) if config.adapters in kinds else nn.Identity() for c in channels]


class PartitionModel(nn.Module):
    """Trunk, adapters and five heads. `forward` gives logits; `chain_rule` turns them into probabilities.

    Attributes:
        sharpness: 1 / temperature of every logit by qindex, float32 [256, 14]; None in a model without.
    """

    sample_maximum: Tensor
    sharpness: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        with_qindex = config.qindex_input == "film"
        self.trunk: Trunk = TRUNKS[config.trunk](EMBEDDING_WIDTH if with_qindex else 0, 2 if config.border else 1)
        self.embedding = QindexEmbedding(EMBEDDING_WIDTH) if with_qindex else None
        self.adapters = nn.ModuleList(_adapters(config, self.trunk.adapter_channels))
        shallow, deep = self.trunk.head_dropout
        self.heads = nn.ModuleDict(
            {
                name: Head(widths, deep if len(widths) > 3 else shallow)
                for name, widths in _head_widths(self.trunk.features).items()
            }
        )
        # By bit depth, so that the exported graph needs one lookup and no arithmetic on integers.
        maximum = [float((1 << depth) - 1) if depth else 1.0 for depth in range(13)]
        self.register_buffer("sample_maximum", torch.tensor(maximum), persistent=False)
        self.register_buffer("sharpness", torch.ones(256, LOGITS) if config.temperature == "qindex" else None)

    def body(self, blocks: Tensor, qindex: Tensor, bit_depth: int | Tensor = 8) -> tuple[Tensor, Tensor | None]:
        """Everything up to the first adapter, and the qindex embedding (None without qindex input).

        Args:
            blocks: raw samples, integer [N, S, S] with S the configuration's `side`, 0 to 2^bit_depth - 1.
            qindex: integer [N], 0-255.
            bit_depth: 8, 10 or 12; a scalar integer tensor in the exported graph for high bit depth.
        """
        if isinstance(bit_depth, int):
            scale: float | Tensor = 1.0 / ((1 << bit_depth) - 1)
        else:
            scale = 1.0 / self.sample_maximum.index_select(0, bit_depth.reshape(1))
        x = luma_channels(blocks.to(self.sample_maximum.dtype)) * scale
        embedding = None if self.embedding is None else self.embedding(qindex)
        return self.trunk.body(x, embedding), embedding

    def stage1_features(self, body: Tensor, embedding: Tensor | None) -> Tensor:
        """Features of the bare trunk, float32 [N, features]."""
        return self.trunk.pool(self.trunk.tail(body, embedding))

    def adapted_features(self, body: Tensor, embedding: Tensor | None) -> Tensor:
        """Features of trunk and adapters, float32 [N, features]."""
        if self.config.adapters == "parallel":
            return self.trunk.pool(self.trunk.tail(body, embedding) + self.adapters[0](body))
        x = self.trunk.tail(self.adapters[0](body), embedding)
        return self.trunk.pool(self.adapters[1](x))

    def forward(self, blocks: Tensor, qindex: Tensor, bit_depth: int | Tensor = 8) -> Tensor:
        """Logits of the five heads, float32 [N, 14], in the order of partition.HEADS; arguments as `body`."""
        body, embedding = self.body(blocks, qindex, bit_depth)
        stage1 = self.stage1_features(body, embedding)
        adapted = self.adapted_features(body, embedding)
        logits = torch.cat([head(stage1 if name == "stage1" else adapted) for name, head in self.heads.items()], 1)
        return self.sharpened(logits, qindex)

    def sharpened(self, logits: Tensor, qindex: Tensor) -> Tensor:
        """Logits float [N, 14] over their temperatures at qindex, integer [N]."""
        return logits if self.sharpness is None else logits * F.embedding(qindex, self.sharpness)


def luma_channels(samples: Tensor) -> Tensor:
    """What a trunk sees of blocks, float [N, 1 or 2, 16, 16]: with a border, the block as it is, and behind it the
    whole area at half resolution (means of 2x2 samples), the block's own 8x8 means amid those of its neighbours.

    Args:
        samples: float [N, 16, 16] or [N, 32, 32].
    """
    if samples.shape[-1] == NODE_SIZE:
        return samples[:, None]
    margin = (samples.shape[-1] - NODE_SIZE) // 2
    inner = slice(margin, margin + NODE_SIZE)
    return torch.cat([samples[:, None, inner, inner], F.avg_pool2d(samples[:, None], 2)], 1)


def chain_rule(logits: Tensor) -> Tensor:
    """Probability of each partition: P(HORZ) = P(partitioned) P(RECT) P(HORZ | RECT), and so on.

    Args:
        logits: float [N, 14], heads in the order of partition.HEADS.

    Returns:
        float [N, 10], rows sum to 1. The numpy twin is partition.chain_rule.
    """
    p = {name: logits[:, part].softmax(1) for name, part in head_slices().items()}
    macro = p["stage1"][:, 1:] * p["macro"]

    def share(macro_class: MacroClass) -> Tensor:
        return macro[:, macro_class : macro_class + 1]

    return torch.cat(
        [
            p["stage1"][:, :1],
            share(MacroClass.RECT) * p["rect"],
            share(MacroClass.SPLIT),
            share(MacroClass.AB) * p["ab"],
            share(MacroClass.FOUR) * p["four"],
        ],
        1,
    )
