"""The hierarchical partition model: three stages, a hierarchy of heads at each level, one forward pass.

blocks, qindex ─► scale by bit depth ─► trunk.body ─┬► bare ────► first head of each level: NONE / PARTITIONED
                                                    └► adapted ─► all its other heads: macro, RECT, AB, FOUR
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from description import BLOCKS, InputForm, Level, Task
from train.backbones import TRUNKS
from train.backbones.trunk import PooledTrunk, Trunk
from train.choices import ADAPTERS, QINDEX_INPUTS
from train.layers import ConvAdapter, Head, LowRankAdapter, ParallelAdapter, QindexEmbedding

EMBEDDING_WIDTH = 32


@dataclass(frozen=True)
class ModelConfig:
    """What decides the shape of a model; stored in run.json and in the manifest, the task beside the rest.

    Attributes:
        trunk: one of train.backbones.TRUNKS.
        qindex_input: "film", or "none" to leave qindex out as the seed did.
        adapter_reduction: how much narrower the adapters are than what they adapt.
        adapters: "series"; "parallel" to the trunk's tail; "lora", low-rank linear ones in series; or "none" for the
            control that trains heads on the bare frozen trunk.
        temperature: "none", or "qindex" for logits that each head's temperature at the qindex divides.
        task: what the model reads and answers.
    """

    trunk: str = "compact"
    qindex_input: str = "film"
    adapter_reduction: int = 4
    adapters: str = "series"
    temperature: str = "none"
    task: Task = BLOCKS

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk is one of {', '.join(TRUNKS)}, not {self.trunk!r}")
        if self.qindex_input not in QINDEX_INPUTS:
            raise ValueError(f"qindex_input is one of {', '.join(QINDEX_INPUTS)}, not {self.qindex_input!r}")
        if self.adapters not in ADAPTERS:
            raise ValueError(f"adapters is one of {', '.join(ADAPTERS)}, not {self.adapters!r}")
        if self.temperature not in ("none", "qindex"):
            raise ValueError(f"temperature is 'none' or 'qindex', not {self.temperature!r}")
        trunk = TRUNKS[self.trunk]()
        sizes = [level.node_size for level in self.task.levels]
        if not trunk.takes(self.task.input, sizes):
            raise ValueError(
                f"trunk {self.trunk!r} does not answer nodes of {sizes} in blocks of task {self.task.name!r}"
            )
        if self.adapters == "parallel" and not issubclass(trunk, PooledTrunk):
            raise ValueError(f"adapters is one of the others: {self.trunk!r} has no tail for one in parallel")
        channels = trunk.adapter_channels
        if type(self.adapter_reduction) is not int:
            raise ValueError(f"adapter_reduction is a whole number, not {self.adapter_reduction!r}")
        if self.adapter_reduction < 1 or any(c % self.adapter_reduction for c in channels):
            raise ValueError(f"adapter_reduction {self.adapter_reduction} does not divide {min(channels)} channels")

    @property
    def form(self) -> InputForm:
        """What a block is."""
        return self.task.input

    def to_json(self) -> dict[str, Any]:
        """Plain values without the task, which stands beside them."""
        values = asdict(self)
        del values["task"]
        return values

    @staticmethod
    def from_json(values: dict[str, Any], task: Task) -> ModelConfig:
        """The inverse of to_json.

        Raises:
            TypeError, ValueError: if the values are of another version.
        """
        return ModelConfig(**values, task=task)


def _head_widths(features: int, classes: int, of_many: bool) -> tuple[int, ...]:
    """A head that tells more than two classes apart has a second hidden layer."""
    half, quarter = features // 2, features // 4
    return (features, half, quarter, classes) if of_many else (features, half, classes)


def _adapters(config: ModelConfig, channels: tuple[int, ...]) -> list[nn.Module]:
    """The adapter at each place, or the one beside the tail."""
    reduction = config.adapter_reduction
    if config.adapters == "parallel":
        narrow, wide = channels
        return [ParallelAdapter(narrow, wide, reduction)]
    kinds: dict[str, type[nn.Module]] = {"series": ConvAdapter, "lora": LowRankAdapter}
    return [kinds[config.adapters](c, reduction) if config.adapters in kinds else nn.Identity() for c in channels]


def _heads(task: Task, trunk: Trunk) -> nn.ModuleDict:
    """Every head of every level, by its name and, if there are several nodes, its level's node size."""
    shallow, deep = trunk.head_dropout
    heads = {}
    for level, features in zip(task.levels, trunk.features, strict=True):
        for head in level.heads:
            widths = _head_widths(features, len(head.classes), len(head.classes) > 2)
            heads[head.name + task.suffix(level)] = Head(widths, deep if len(widths) > 3 else shallow)
    return nn.ModuleDict(heads)


class PartitionModel(nn.Module):
    """Trunk, adapters and heads. `forward` gives logits; `chain_rule` turns them into probabilities.

    Attributes:
        sharpness: 1 / temperature by qindex of every logit of a node, level after level: float32 [256, 14] for one
            level of ten types; None in a model without.
    """

    sample_maximum: Tensor
    sharpness: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        with_qindex = config.qindex_input == "film"
        self.trunk: Trunk = TRUNKS[config.trunk]()(EMBEDDING_WIDTH if with_qindex else 0, config.form)
        self.embedding = QindexEmbedding(EMBEDDING_WIDTH) if with_qindex else None
        self.adapters = nn.ModuleList(_adapters(config, self.trunk.adapter_channels))
        self.heads = _heads(config.task, self.trunk)
        # By bit depth, so that the exported graph needs one lookup and no arithmetic on integers.
        maximum = [float((1 << depth) - 1) if depth else 1.0 for depth in range(13)]
        self.register_buffer("sample_maximum", torch.tensor(maximum), persistent=False)
        width = sum(level.logits for level in config.task.levels)
        self.register_buffer("sharpness", torch.ones(256, width) if config.temperature == "qindex" else None)

    def body(self, blocks: Tensor, qindex: Tensor, bit_depth: int | Tensor = 8) -> tuple[Any, Tensor | None]:
        """Everything up to the first adapter, and the qindex embedding (None without qindex input).

        Args:
            blocks: raw samples, integer [N, S, S] with S the side of the task's input form, 0 to 2^bit_depth - 1.
            qindex: integer [N], 0-255.
            bit_depth: 8, 10 or 12; a scalar integer tensor in the exported graph for high bit depth.
        """
        if isinstance(bit_depth, int):
            scale: float | Tensor = 1.0 / ((1 << bit_depth) - 1)
        else:
            scale = 1.0 / self.sample_maximum.index_select(0, bit_depth.reshape(1))
        x = luma_channels(blocks.to(self.sample_maximum.dtype), self.config.form) * scale
        embedding = None if self.embedding is None else self.embedding(qindex)
        return self.trunk.body(x, embedding), embedding

    def stage1_features(self, body: Any, embedding: Tensor | None) -> tuple[Tensor, ...]:
        """Features of the bare trunk: for each level float32 [N * nodes, features]."""
        return self.trunk.bare(body, embedding)

    def adapted_features(self, body: Any, embedding: Tensor | None) -> tuple[Tensor, ...]:
        """Features of trunk and adapters: for each level float32 [N * nodes, features]."""
        return self.trunk.adapted(body, embedding, self.adapters)

    def head(self, name: str, level: Level) -> nn.Module:
        """The head of that name at a level."""
        return self.heads[name + self.config.task.suffix(level)]

    def forward(self, blocks: Tensor, qindex: Tensor, bit_depth: int | Tensor = 8) -> Tensor:
        """Logits float32 [N, task.logits], in the order of description.Task; arguments as `body`."""
        return self.answers(*self.body(blocks, qindex, bit_depth), qindex)

    def answers(self, body: Any, embedding: Tensor | None, qindex: Tensor) -> Tensor:
        """As `forward`, from what `body` gives."""
        bare, adapted = self.stage1_features(body, embedding), self.adapted_features(body, embedding)
        parts = []
        for number, level in enumerate(self.config.task.levels):
            first, *others = level.heads
            answers = [self.head(first.name, level)(bare[number])]
            answers += [self.head(head.name, level)(adapted[number]) for head in others]
            parts.append(torch.cat(answers, 1))
        return self.sharpened(self.side_by_side(parts), qindex)

    def side_by_side(self, parts: list[Tensor]) -> Tensor:
        """Logits [N, task.logits] of those of each level, [N * nodes, level.logits]."""
        task = self.config.task
        if task.one_node:
            return parts[0]
        rows = [x.reshape(-1, task.nodes_of(level) * level.logits) for level, x in zip(task.levels, parts, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def sharpened(self, logits: Tensor, qindex: Tensor) -> Tensor:
        """Logits float [N, task.logits] over their temperatures at qindex, integer [N]."""
        if self.sharpness is None:
            return logits
        factors = F.embedding(qindex, self.sharpness)
        if self.config.task.one_node:
            return logits * factors
        parts, start = [], 0
        for size, part in self.config.task.split_logits(logits).items():
            width = self.config.task.level(size).logits
            parts.append((part * factors[:, None, start : start + width]).flatten(1))
            start += width
        return torch.cat(parts, 1)

    def adapter_map_sizes(self) -> list[int]:
        """Side of the square map at each adapter."""
        side = self.config.form.side
        with torch.no_grad():
            body = self.body(torch.zeros(1, side, side, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32))
            return self.trunk.adapter_sides(*body)


def luma_channels(samples: Tensor, form: InputForm) -> Tensor:
    """What a trunk sees of blocks, float [N, channels, h, w].

    One channel: the samples as they are, with their border. Two: the block without its border, and behind it the whole
    area at half resolution (means of 2x2 samples), the block's own means amid those of its neighbours.

    Args:
        samples: float [N, S, S], S the form's side.
        form: what a block is.
    """
    if form.channels == 1:
        return samples[:, None]
    inner = slice(form.border, form.border + form.unit)
    return torch.cat([samples[:, None, inner, inner], F.avg_pool2d(samples[:, None], 2)], 1)


def chain_rule(logits: Tensor, level: Level) -> Tensor:
    """Probability of each partition: P(HORZ) = P(partitioned) P(RECT) P(HORZ | RECT), and so on.

    Args:
        logits: float [N, level.logits].
        level: whose nodes they are.

    Returns:
        float [N, types], rows sum to 1. The numpy twin is description.chain_rule.
    """
    within = {name: logits[:, part].softmax(1) for name, part in level.slices.items()}
    divided = {head.divides[0] for head in level.heads if head.divides}
    absolute: dict[str, Tensor] = {}

    def share(name: str, of: str) -> Tensor:
        """Probability of one class, [N, 1]; of the first head's last class all that is left, which is the same."""
        number = level.head(name).classes.index(of)
        last = name == level.heads[0].name and number + 1 == len(level.head(name).classes)
        return absolute[name][:, number:] if last else absolute[name][:, number : number + 1]

    def whole(name: str) -> Tensor:
        """Probability of each class of a head."""
        divides = level.head(name).divides
        return within[name] if divides is None else share(*divides) * within[name]

    for head in level.heads:
        if head.name in divided:
            absolute[head.name] = whole(head.name)
    pieces, done = [], set()
    for partition in level.types:
        owner = next(head for head in reversed(level.heads) if partition.name in head.classes)
        if owner.name in divided:
            pieces.append(share(owner.name, partition.name))
        elif owner.name not in done:  # its classes follow one another among the types
            pieces.append(whole(owner.name))
            done.add(owner.name)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Probabilities float [N, task.probabilities] from logits float [N, task.logits]."""
    if task.one_node:
        return chain_rule(logits, task.levels[0])
    parts = task.split_logits(logits)
    rows = [
        chain_rule(parts[level.node_size].flatten(0, 1), level).reshape(-1, task.nodes_of(level) * len(level.types))
        for level in task.levels
    ]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)
