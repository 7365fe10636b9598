"""Lower convolutions on small maps to matrix products: the model becomes a graph over rows [N, values].

A map [N, C, H, W] becomes a row of C H W values in one of two orders (dense_convolution.py). A product reads any order
and writes any order, since its matrix is permuted once, here; map_orders.py chooses them so that nothing is transposed.

    conv ─► relu ─► conv ─► + ─► relu          becomes          x M + b ─► relu ─► h M' + b' ─► + ─► relu
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compiler.passes.absorb_biases import absorb_biases
from compiler.passes.dense_convolution import Shape, dense_matrix, is_patchwise, patch_matrix, row_index
from compiler.passes.map_orders import Orders
from compiler.passes.max_pool_rows import pool_index, pool_row
from compiler.passes.prune_taps import ChannelScale
from compiler.passes.reorder_elementwise import reorder
from compiler.passes.share_branches import shape_of, trace

ELEMENTWISE = (F.relu, torch.sigmoid, operator.add, operator.sub, operator.mul)

Choose = Callable[[nn.Conv2d, Shape, Shape], bool]
"""Whether to lower a convolution, given the shapes (C, H, W) of its input and its output."""


@dataclass(frozen=True)
class Layout:
    """How the values of a lowered graph lie, and by which operations they are computed.

    Attributes:
        dtype: what the graph will compute in. In float16 a map's mean is subtracted by an operation of its own rather
            than within the next matrix, which would have to cancel a mean a hundred times the texture.
        order: of a map where nothing wants another, of dense_convolution.ORDERS.
        maximum_by_index: a maximum over channels by its index (docs/COMPILER.md).
        rows_alone: nothing but operations that read and write rows: max pools and means on rows, and means subtracted
            apart, which leaves the matrix behind them mostly zeros.
    """

    dtype: torch.dtype = torch.float32
    order: str = "position"
    maximum_by_index: bool = False
    rows_alone: bool = False


@torch.no_grad()
def lower_model(
    model: nn.Module, example: tuple[Tensor, ...], choose: Choose, layout: Layout | None = None
) -> fx.GraphModule:
    """The model as a graph over rows.

    Args:
        model: in eval mode; takes a map float32 [N, C, H, W] first, and gives [N, values].
        example: arguments of its forward.
        choose: which convolutions become products.
        layout: of the target; None takes float32 in "position" order.

    Returns:
        A module that takes the map as a row [N, C H W] and otherwise computes the same.
    """
    traced = trace(model, example)
    absorb_biases(traced)
    reorder(traced)
    return _Lowering(traced, choose, layout or Layout()).run()


class _Lowering:
    """Emits the new graph node by node, in the old one's order; what is not needed after all is dropped at the end."""

    def __init__(self, traced: fx.GraphModule, choose: Choose, layout: Layout) -> None:
        self.traced, self.choose, self.layout = traced, choose, layout
        self.graph = fx.Graph()
        self.state: dict[str, Tensor | nn.Module] = {}
        self.rows: dict[fx.Node, fx.Node] = {}
        self.constants: dict[Any, fx.Node] = {}
        self.orders = Orders(traced, self._kind, layout.order)

    def run(self) -> fx.GraphModule:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.rows[node] = self.graph.placeholder(str(node.target))
            elif node.op == "output":
                self.graph.output(self.row(node.args[0]))
            else:
                self.rows[node] = self._emit(node)
        module = fx.GraphModule(self.state, self.graph)
        module.graph.eliminate_dead_code()
        module.graph.lint()
        # Once more, now with no more constants than the graph still names.
        return fx.GraphModule(self.state, module.graph).eval()

    def row(self, node: Any) -> fx.Node:
        """The node's value as rows."""
        return self.rows[node]

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _kind(self, node: fx.Node) -> str:
        """As compiler.passes.map_orders.Orders asks."""
        module = self._module(node)
        if isinstance(module, nn.Conv2d):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if not self.choose(module, _map(source), _map(node)):
                return "map"
            return "patches" if is_patchwise(module, _map(source)) else "product"
        if isinstance(module, ChannelScale) or node.target in ELEMENTWISE or _is_alias(node):
            return "elementwise"
        if node.target is F.max_pool2d and self.layout.rows_alone:
            return "product"
        return "product" if _spatial_mean(node) is not None else "map"

    def _emit(self, node: fx.Node) -> fx.Node:
        module, kind = self._module(node), self._kind(node)
        if isinstance(module, nn.Conv2d) and kind != "map":
            return self._product(node, module)
        if isinstance(module, nn.Linear):
            return self._linear(node, module)
        if isinstance(module, ChannelScale):
            return self._channel_scale(node, module)
        if _is_alias(node):
            return self.row(node.args[0])
        if (source := _spatial_mean(node)) is not None:
            return self._mean(source)
        if node.target in ("mean", "amax") and node.args[1] == 1 and math.prod(_map(node.all_input_nodes[0])[1:]) == 1:
            return self._over_channels(node)
        if node.target in ELEMENTWISE:
            return self._elementwise(node)
        if node.target is F.max_pool2d and self.layout.rows_alone:
            return self._pool(node)
        if node.op == "get_attr":
            return self._constant(node.target, _attribute(self.traced, str(node.target)))
        return self._on_maps(node, module)

    def _product(self, node: fx.Node, conv: nn.Conv2d) -> fx.Node:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        order, out_order, shape = self.orders.of(source), self.orders.of(node), _map(source)
        if is_patchwise(conv, shape) and out_order == "position":
            matrix, bias = patch_matrix(conv)
            patches = self._reshape(self._by_position(source), matrix.shape[0])
            return self._reshape(self._affine(patches, node.target, matrix, bias), math.prod(_map(node)))
        matrix, bias = dense_matrix(conv, shape, order, out_order)
        row, before = self._before_product(source)
        matrix = matrix if before is None else before @ matrix
        return self._affine(row, (node.target, order, out_order, source), matrix, bias)

    def _linear(self, node: fx.Node, linear: nn.Linear) -> fx.Node:
        """A linear layer; the mean over positions that it reads becomes part of its matrix."""
        source = node.all_input_nodes[0]
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias
        averaged = _spatial_mean(source)
        if averaged is None or math.prod(_map(averaged)[1:]) == 1:
            return self._affine(self.row(source), node.target, linear.weight.T, bias)
        matrix = linear.weight.T.double()[self._channels(averaged)] / math.prod(_map(averaged)[1:])
        return self._affine(self.row(averaged), (node.target, self.orders.of(averaged)), matrix, bias)

    def _over_channels(self, node: fx.Node) -> fx.Node:
        """Mean or maximum over the channels of a single position: row [N, 1]."""
        source = node.all_input_nodes[0]
        row, size = self.row(source), _map(source)[0]
        if node.target == "mean":
            return self.graph.call_function(torch.matmul, (row, self._averaging(size)))
        if not self.layout.maximum_by_index:
            return self.graph.call_method("amax", (row, 1, True))
        # Six times as fast under onnxruntime's CUDA provider as its ReduceMax.
        index = self.graph.call_function(torch.argmax, (row, 1, True))
        return self.graph.call_function(torch.gather, (row, 1, index))

    def _pool(self, node: fx.Node) -> fx.Node:
        """A max pool on rows."""
        source = node.all_input_nodes[0]
        index = pool_index(node, _map(source), self.orders.of(source), self.orders.of(node))
        name = f"pool{len(self.state)}"
        self.state[name] = index
        return self.graph.call_function(pool_row, (self.row(source), self.graph.get_attr(name)))

    def _averaging(self, size: int) -> fx.Node:
        """The matrix that takes a row to its mean: a product accumulates in float32 where a float16 sum would not."""
        return self._constant(("mean", size), torch.full((size, 1), 1.0 / size))

    def _mean_of_first(self, node: fx.Node) -> Tensor:
        """What a map's row is multiplied by for the mean of its first channel, float64 [C H W, 1]."""
        first = (self._channels(node) == 0).double()[:, None]
        return first / first.sum()

    def _channels(self, node: fx.Node) -> Tensor:
        """The channel of each value in a map's row, int64 [C H W]."""
        return torch.from_numpy(row_index(_map(node), self.orders.of(node)) // math.prod(_map(node)[1:]))

    def _before_product(self, source: fx.Node) -> tuple[fx.Node, Tensor | None]:
        """The row to multiply, and the linear map between it and `source` that the matrix is to absorb."""
        factor, base = _scaled(source)
        centered = _centered(base)
        if centered is None:
            return self.row(base), None if factor == 1.0 else factor * torch.eye(
                math.prod(_map(base)), dtype=torch.float64
            )
        inner, base = _scaled(centered)
        size = math.prod(_map(base))
        averaging = self._mean_of_first(base)
        centering = torch.eye(size, dtype=torch.float64) - averaging
        row = self.row(base)
        if self.layout.rows_alone:
            minus = self._constant((base, "mean", "negated"), -averaging)
            centered_row = self.graph.call_function(
                operator.add, (row, self.graph.call_function(torch.matmul, (row, minus)))
            )
            return centered_row, factor * inner * torch.eye(size, dtype=torch.float64)
        if self.layout.dtype is torch.float16:
            mean = self.graph.call_function(torch.matmul, (row, self._constant((base, "mean"), averaging)))
            row = self.graph.call_function(operator.sub, (row, mean))
        return row, factor * inner * centering

    def _affine(self, row: fx.Node, key: Any, matrix: Tensor, bias: Tensor) -> fx.Node:
        weight = self._constant((key, "weight"), matrix)
        if not bias.any():
            return self.graph.call_function(torch.matmul, (row, weight))
        return self.graph.call_function(torch.addmm, (self._constant((key, "bias"), bias), row, weight))

    def _constant(self, key: Any, value: Tensor) -> fx.Node:
        if key not in self.constants:
            name = f"constant{len(self.constants)}"
            self.state[name] = value.detach().float().contiguous().clone()
            self.constants[key] = self.graph.get_attr(name)
        return self.constants[key]

    def _reshape(self, row: fx.Node, *sizes: int) -> fx.Node:
        return self.graph.call_function(torch.reshape, (row, (-1, *sizes)))

    def _by_channel(self, node: fx.Node) -> tuple[fx.Node, int]:
        """A map's row as [N, P, C] or [N, C, P] by its order, and the axis of the positions."""
        channels, height, width = _map(node)
        if self.orders.of(node) == "position":
            return self._reshape(self.row(node), height * width, channels), 1
        return self._reshape(self.row(node), channels, height * width), 2

    def _by_position(self, node: fx.Node) -> fx.Node:
        """A square map's row in "position" order; the one place where a map may have to be copied into it."""
        if self.orders.of(node) == "position":
            return self.row(node)
        channels, side, _ = _map(node)
        bits = side.bit_length() - 1
        spread, _ = self._by_channel(node)
        rows = self.graph.call_method("permute", (spread, (0, 2, 1)))
        # A second step for the order of the positions: two copies of long runs are faster than one of single values.
        axes = self._reshape(rows, *[2] * (2 * bits), channels)
        morton = [1 + axis for bit in range(bits) for axis in (bit, bits + bit)]
        return self._reshape(self.graph.call_method("permute", (axes, (0, *morton, 2 * bits + 1))), channels * side**2)

    def _channel_scale(self, node: fx.Node, module: ChannelScale) -> fx.Node:
        channel = self._channels(node)
        scale = self._constant((node.target, "scale"), module.scale[channel])
        scaled = self.graph.call_function(operator.mul, (self.row(node.args[0]), scale))
        if not module.shift.any():
            return scaled
        return self.graph.call_function(
            operator.add, (scaled, self._constant((node.target, "shift"), module.shift[channel]))
        )

    def _mean(self, source: fx.Node) -> fx.Node:
        """Mean over the positions of a map: row [N, C]."""
        if math.prod(_map(source)[1:]) == 1:
            return self.row(source)
        if self.layout.rows_alone:
            sums = F.one_hot(self._channels(source)).double()
            mean = self._constant(("mean", source), sums / math.prod(_map(source)[1:]))
            return self.graph.call_function(torch.matmul, (self.row(source), mean))
        spread, axis = self._by_channel(source)
        return self.graph.call_method("mean", (spread, axis))

    def _elementwise(self, node: fx.Node) -> fx.Node:
        operands = [a for a in node.args if isinstance(a, fx.Node)]
        sizes = [math.prod(shape_of(o)[1:]) for o in operands]
        size = math.prod(shape_of(node)[1:])
        if size in sizes and all(s in (1, size) for s in sizes):
            return self.graph.node_copy(node, self.row)
        full = operands[sizes.index(size)] if size in sizes else None
        if full is None or any(math.prod(shape_of(o)[2:]) != 1 for o in operands if o is not full):
            return self._on_maps(node, None)

        def operand(value: fx.Node) -> fx.Node:
            channels, height, width = _map(full)
            if self.orders.of(full) == "position":
                return self._reshape(self.row(value), height * width if value is full else 1, channels)
            # Channels as rows: the one broadcast that onnxruntime's CUDA provider is fast at.
            return self._reshape(self.row(value), height * width if value is full else 1)

        args = tuple(operand(a) if isinstance(a, fx.Node) else a for a in node.args)
        return self._reshape(self.graph.call_function(node.target, args), size)  # type: ignore[arg-type]

    def _on_maps(self, node: fx.Node, module: nn.Module | None) -> fx.Node:
        """An operation that stays what it was, between reshapes that copy nothing."""

        def as_map(value: fx.Node) -> fx.Node:
            row = self.row(value)
            if len(shape_of(value)) != 4:
                return row
            assert self.orders.of(value) == "channel" or math.prod(_map(value)[1:]) == 1
            return self._reshape(row, *_map(value))

        copied = self.graph.node_copy(node, as_map)
        if module is not None:
            self.state[str(node.target)] = module
        return self._reshape(copied, math.prod(_map(node))) if len(shape_of(node)) == 4 else copied


def _map(node: fx.Node) -> Shape:
    """Channels, height and width; a row counts as one position."""
    _, *sizes = shape_of(node)
    channels, height, width = [*sizes, 1, 1][:3]
    return channels, height, width


def _is_alias(node: fx.Node) -> bool:
    """Operations that change nothing in a row: dropout in eval mode, new axes of size 1, a mean over one position."""
    if node.target is operator.getitem:
        return math.prod(shape_of(node)) == math.prod(shape_of(node.all_input_nodes[0]))
    source = _spatial_mean(node)
    return node.target is F.dropout or (source is not None and math.prod(_map(source)[1:]) == 1)


def _spatial_mean(node: fx.Node) -> fx.Node | None:
    """What the node is the mean over the positions of, or None."""
    if node.target == "mean" and len(node.args) > 1 and node.args[1] == (2, 3):
        return node.all_input_nodes[0]
    return None


def _scaled(node: fx.Node) -> tuple[float, fx.Node]:
    """The node as a number times another."""
    if node.target is operator.mul and isinstance(node.args[0], fx.Node) and isinstance(node.args[1], int | float):
        factor, base = _scaled(node.args[0])
        return factor * float(node.args[1]), base
    return 1.0, node


def _centered(node: fx.Node) -> fx.Node | None:
    """What the node is, minus its first channel's mean over positions; None if it is no such difference."""
    if node.target is operator.sub and isinstance(node.args[0], fx.Node) and isinstance(node.args[1], fx.Node):
        averaged = _spatial_mean(node.args[1])
        if averaged is not None and _first_channel(averaged) is node.args[0]:
            return node.args[0]
    return None


def _first_channel(node: fx.Node) -> fx.Node | None:
    """What the node is the first channel of, be it the only one; None if it is no first channel."""
    if node.target is operator.getitem and node.args[1] == (slice(None), slice(None, 1)):
        return node.all_input_nodes[0]
    return node if _map(node)[0] == 1 else None


def _attribute(module: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    assert isinstance(value, Tensor)
    return value
