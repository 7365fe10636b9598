"""What a model needs of a trunk, and the two kinds there are.

A trunk splits where the first adapter stands, so that stages 2 and 3 share all that comes before it. One that pools a
block into a single node's features has its adapters in series:

    blocks ─► body ─┬───────────► tail ───────────► pool ─► features of stage 1            [N, features]
                    └► adapter ─► tail ─► adapter ─► pool ─► features of stages 2 and 3    [N, features]

One that gives a map for each level has an adapter for each of them:

    blocks ─► body ─► maps ─┬───────────► a row for each node ─► features of stage 1         [N * nodes, features]
                            └► adapters ─► a row for each node ─► features of stages 2, 3    [N * nodes, features]

`adapter_channels` are the widths at the adapters. `embedding` is qindex, float32 [N, E], or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from description import InputForm


class Trunk(nn.Module):
    """What model.py needs of a trunk. Every module that qindex conditions is a Film in `films`.

    Args:
        embedding: width of the qindex embedding, 0 without.
        form: what a block is; `body` is given its channels.
    """

    adapter_channels: ClassVar[tuple[int, ...]]
    features: ClassVar[tuple[int, ...]]
    """Of a node, for each level of the task."""
    head_dropout: ClassVar[tuple[float, float]]
    films: nn.ModuleList

    def __init__(self, embedding: int, form: InputForm) -> None:
        del embedding
        super().__init__()
        self.luma = form.channels

    @classmethod
    def takes(cls, form: InputForm, node_sizes: Sequence[int]) -> bool:
        """Whether it can answer those levels of such blocks."""
        raise NotImplementedError

    def body(self, x: Tensor, embedding: Tensor | None) -> Any:
        """From scaled luma float32 [N, channels, side, side], 0-1, to what `bare` and `adapted` take."""
        raise NotImplementedError

    def bare(self, body: Any, embedding: Tensor | None) -> tuple[Tensor, ...]:
        """Features without adapters: for each level float32 [N * nodes, features]."""
        raise NotImplementedError

    def adapted(self, body: Any, embedding: Tensor | None, adapters: nn.ModuleList) -> tuple[Tensor, ...]:
        """Features with adapters: for each level float32 [N * nodes, features]."""
        raise NotImplementedError

    def adapter_sides(self, body: Any, embedding: Tensor | None) -> list[int]:
        """Side of the square map at each adapter."""
        raise NotImplementedError

    def _film(self, i: int, x: Tensor, embedding: Tensor | None) -> Tensor:
        return x if embedding is None else self.films[i](x, embedding)

    def _minus_mean(self, x: Tensor) -> Tensor:
        """Every channel of the luma minus the mean of the first one, which is the block itself."""
        # A single channel is taken as it is: a slice of all of it would be an operation of the exported graph.
        return x - (x if self.luma == 1 else x[:, :1]).mean((2, 3), keepdim=True)


class PooledTrunk(Trunk):
    """For tasks of one node a block: two adapters in series, or one beside the tail (the model's "parallel")."""

    adapter_channels: ClassVar[tuple[int, int]]

    @classmethod
    def takes(cls, form: InputForm, node_sizes: Sequence[int]) -> bool:
        """One level, whose nodes are 16x16 blocks."""
        return list(node_sizes) == [form.unit] == [16]

    def tail(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """From the first adapter's map to the second's, [N, adapter_channels[1], h, w]."""
        raise NotImplementedError

    def pool(self, x: Tensor) -> Tensor:
        """From the second adapter's map to features float32 [N, features]."""
        return x.mean((2, 3))

    def bare(self, body: Tensor, embedding: Tensor | None) -> tuple[Tensor, ...]:
        """As Trunk.bare."""
        return (self.pool(self.tail(body, embedding)),)

    def adapted(self, body: Tensor, embedding: Tensor | None, adapters: nn.ModuleList) -> tuple[Tensor, ...]:
        """As Trunk.adapted."""
        if len(adapters) == 1:
            return (self.pool(self.tail(body, embedding) + adapters[0](body)),)
        return (self.pool(adapters[1](self.tail(adapters[0](body), embedding))),)

    def adapter_sides(self, body: Tensor, embedding: Tensor | None) -> list[int]:
        """As Trunk.adapter_sides."""
        return [body.shape[-1], self.tail(body, embedding).shape[-1]]


class MapsTrunk(Trunk):
    """For tasks of several levels: `body` gives a map for each, [N, adapter_channels[i], n, n] with n nodes a side."""

    def bare(self, body: tuple[Tensor, ...], embedding: Tensor | None) -> tuple[Tensor, ...]:
        """As Trunk.bare."""
        return tuple(map(node_rows, body))

    def adapted(
        self, body: tuple[Tensor, ...], embedding: Tensor | None, adapters: nn.ModuleList
    ) -> tuple[Tensor, ...]:
        """As Trunk.adapted."""
        return tuple(node_rows(adapter(x)) for adapter, x in zip(adapters, body, strict=True))

    def adapter_sides(self, body: tuple[Tensor, ...], embedding: Tensor | None) -> list[int]:
        """As Trunk.adapter_sides."""
        return [x.shape[-1] for x in body]


def node_rows(x: Tensor) -> Tensor:
    """A map [N, C, n, n] as rows [N * n * n, C], in raster order within each block."""
    return x.flatten(2).transpose(1, 2).reshape(-1, x.shape[1])
