"""Biases for nothing, for runtimes that add them by a kernel of their own: values as differences from a constant.

    x = x' + o,  o a constant row:      x W + b       =  x' W + (o W + b)       a bias only changes the constant,
                                        relu(x' + o)  =  max(x', -o) + o        and a ReLU's threshold takes it up

So biases wander from product to product, each met by a ReLU that compares with a row instead of with 0, and none is
ever added. Where a value itself is needed (a gate, a qindex table, a mean), the constant that is due goes into the
product in front as a row of its matrix, behind a 1 that the ReLU before it writes into a column added for it:

    max(x W, -o) U + c      becomes      max(x [W 0], [-o 1]) [U over c]

ONNX Runtime's CUDA provider writes a Gemm's bias by a kernel that takes half as long as the product (docs/COMPILER.md).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from compiler.passes.product_nodes import Product, drop_unused, product_of, value_of

COLUMNS = 16
"""Columns added for a 1. Rows that are odd multiples of 8 long make slower products on an H200."""
AGE = 3
"""Products that an offset may pass before a sum takes it up: it grows from one to the next, and float16 with it."""
NARROW = 64
"""A product that writes no more values than this has its bias added: that costs next to nothing."""


@torch.no_grad()
def carry_offsets(lowered: fx.GraphModule, dtype: torch.dtype) -> int:
    """Turn biases into offsets, in place; returns how many ReLUs took one up.

    Args:
        lowered: from compiler.passes.lower_to_products.lower_model, in float32.
        dtype: what it will compute in; thresholds are rounded to it here, so that the offset is what they are.
    """
    return _Offsets(lowered, dtype).rewrite()


class _Offsets:
    """Offsets are float64 [k, width]: row n of a value is off by row n mod k. None is an offset of 0.

    Attributes:
        exact: nodes whose offset must be 0.
        mends: by sum that must be exact, the product among its operands that makes up for the other's offset.
        offset: of each node.
        constant: what each product has to add after all.
    """

    def __init__(self, lowered: fx.GraphModule, dtype: torch.dtype) -> None:
        self.lowered, self.dtype = lowered, dtype
        self.exact: set[fx.Node] = set()
        self.mends: dict[fx.Node, fx.Node] = {}
        self.offset: dict[fx.Node, Tensor | None] = {}
        self.constant: dict[fx.Node, Tensor] = {}
        self.stored = 0
        self.kept_as = next((b.dtype for b in lowered.buffers()), torch.float32)

    def rewrite(self) -> int:
        """Decide what must be exact, follow the offsets, write them."""
        nodes = list(self.lowered.graph.nodes)
        self.exact = self._aged(nodes)
        for node in reversed(nodes):
            self.exact.update(self._needs_exact(node))
        for node in nodes:
            self.offset[node] = self._follow(node)
        pairs = {p: self._hidden(p) for p, constant in self.constant.items() if len(constant) == 1}
        with_one = {node for pair in pairs.values() for node in pair or ()}
        count = 0
        for node in nodes:
            if (product := product_of(node)) is not None:
                self._write_product(node, product, node in with_one, pairs.get(node) is not None)
            elif node.target is F.relu:
                count += self._write_relu(node, node in with_one)
        drop_unused(self.lowered)
        return count

    def _hidden(self, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """The product and the ReLU in front of a product, if nothing else reads them."""
        product = product_of(node)
        if product is None or product.row.target is not F.relu or len(product.row.users) > 1:
            return None
        before = product.row.all_input_nodes[0]
        return (before, product.row) if product_of(before) is not None and len(before.users) == 1 else None

    def _aged(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """The sums that end the way of an offset which has passed more than AGE products."""
        aged: set[fx.Node] = set()
        ages: dict[fx.Node, int] = {}
        for node in nodes:
            product = product_of(node)
            if product is not None:
                ages[node] = ages[product.row] + 1
            elif node.target is operator.add or _is_transparent(node):
                ages[node] = max(map(ages.__getitem__, node.all_input_nodes))
            if ages.setdefault(node, 0) > AGE and (mender := self._mender(node)) is not None and self._hidden(mender):
                aged.add(node)
                ages[node] = 0
        return aged

    def _mender(self, node: fx.Node) -> fx.Node | None:
        """Of a sum of two: the product that can make up for the other's offset, best by a row of its matrix."""
        if node.target is not operator.add or len(node.all_input_nodes) != 2:
            return None
        products = [n for n in node.all_input_nodes if product_of(n) is not None and len(n.users) == 1]
        return max(products, key=lambda n: self._hidden(n) is not None, default=None)

    def _needs_exact(self, node: fx.Node) -> list[fx.Node]:
        """Which operands of a node must be exact."""
        operands, exact = node.all_input_nodes, node in self.exact
        if (product := product_of(node)) is not None:
            # A constant that this product could not take up into its matrix had better not arise.
            narrow = self._value(product.matrix).shape[1] <= NARROW
            pure = product.bias is None and not narrow and self._hidden(node) is None
            return [product.row] if exact and (pure or product.row.target is torch.reshape) else []
        if exact and (mender := self._mender(node)) is not None:
            self.mends[node] = mender
            return [mender]
        summed = node.target is operator.add and len(operands) == 2
        return [] if (summed or _is_transparent(node)) and not exact else operands

    def _follow(self, node: fx.Node) -> Tensor | None:
        """A node's offset, from those of its operands."""
        if (product := product_of(node)) is not None:
            offset = self._after_product(product)
            if node not in self.exact or offset is None or node in self.mends.values():
                return offset
            self.constant[node] = offset
            return None
        offsets = [o for o in map(self.offset.get, node.all_input_nodes) if o is not None]
        if not offsets:
            return None
        if node.target is operator.add:
            if node not in self.mends:
                return sum(offsets[1:], offsets[0])
            self.constant[self.mends[node]] = sum(offsets[1:], offsets[0])
            return None
        if node.target is F.relu:
            return offsets[0].to(self.dtype).double()
        flat, width = offsets[0].flatten(), _width(node)
        assert width is not None
        return flat.repeat(math.lcm(len(flat), width) // len(flat)).reshape(-1, width)

    def _after_product(self, product: Product) -> Tensor | None:
        """The offset of a product that adds nothing."""
        before = self.offset[product.row]
        bias = None if product.bias is None else self._value(product.bias).double()[None]
        if before is None:
            return bias
        offset = before @ self._value(product.matrix).double()
        return offset if bias is None else offset + bias

    def _write_product(self, node: fx.Node, product: Product, with_one: bool, behind_one: bool) -> None:
        """A product without its bias, with columns for a 1, or with its constant as a row of its matrix."""
        graph, matrix, constant = self.lowered.graph, self._value(product.matrix), self.constant.get(node)
        if with_one:
            matrix = F.pad(matrix, (0, COLUMNS))
        if constant is not None and behind_one:
            matrix, constant = torch.cat([matrix, F.pad(constant, (0, 0, 0, COLUMNS - 1)).to(matrix)]), None
        with graph.inserting_before(node):
            stored = self._store(matrix) if with_one or behind_one else product.matrix
            if constant is not None and len(constant) == 1:
                new = graph.call_function(torch.addmm, (self._store(constant[0]), product.row, stored))
            else:
                new = graph.call_function(torch.matmul, (product.row, stored))
                new = new if constant is None else self._with_row(operator.add, new, constant)
        node.replace_all_uses_with(new)
        graph.erase_node(node)

    def _write_relu(self, node: fx.Node, with_one: bool) -> bool:
        """A ReLU as a maximum, if it has an offset to take up or a 1 to write; whether it had."""
        (before,) = node.all_input_nodes
        offset = self.offset[node]
        if offset is None and not with_one:
            return False
        if with_one:
            product = product_of(before)
            assert product is not None
            width = self._value(product.matrix).shape[1] - COLUMNS
            offset = torch.zeros(1, width) if offset is None else offset
            offset = torch.cat([offset, -torch.eye(1, COLUMNS).to(offset).expand(len(offset), -1)], 1)
        assert offset is not None
        with self.lowered.graph.inserting_before(node):
            new = self._with_row(torch.maximum, before, -offset)
        node.replace_all_uses_with(new)
        self.lowered.graph.erase_node(node)
        return True

    def _with_row(self, operation: Callable[..., Tensor], value: fx.Node, constant: Tensor) -> fx.Node:
        """An operation of a value and a constant [k, width], repeated every k rows."""
        graph, (period, width) = self.lowered.graph, constant.shape
        if period > 1:
            value = graph.call_function(torch.reshape, (value, (-1, period * width)))
        new = graph.call_function(operation, (value, self._store(constant.flatten())))
        return graph.call_function(torch.reshape, (new, (-1, width))) if period > 1 else new

    def _value(self, node: fx.Node) -> Tensor:
        return value_of(self.lowered, node)

    def _store(self, value: Tensor) -> fx.Node:
        name = f"offset{self.stored}"
        self.stored += 1
        self.lowered.register_buffer(name, value.to(self.kept_as).contiguous())
        return self.lowered.graph.get_attr(name)


def _is_transparent(node: fx.Node) -> bool:
    """Whether the offset of a node follows from that of its only operand."""
    return node.target is F.relu or (node.target is torch.reshape and _width(node) is not None)


def _width(node: fx.Node) -> int | None:
    """Width of the rows that a reshape makes; None if it makes something else."""
    sizes = node.args[1]
    assert isinstance(sizes, tuple)
    return int(str(sizes[1])) if len(sizes) == 2 and sizes[0] == -1 else None
