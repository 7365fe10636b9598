"""A lowered graph as the C library's list of operations (export/c/ops.py), node by node:
a product opens an operation, and what follows is taken into it while nothing else reads what is there.

matmul ─► + residual ─► * scale ─► + shift ─► relu        becomes        one product
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F

from compiler.passes.max_pool_rows import pool_row
from compiler.passes.product_nodes import value_of
from errors import MissingComponentError
from export.c.ops import LUMA, Op, Operand, Program

EXAMPLE_BATCH = 3


@torch.no_grad()
def build_program(core: fx.GraphModule, samples: int) -> Program:
    """The operations of a lowered graph.

    Args:
        core: from compiler.compile.compile_model with `rows`, lowered to products; its inputs are `luma` and `qindex`.
        samples: of a block: the columns of `luma`.

    Raises:
        MissingComponentError: if it holds an operation that the C library has not.
    """
    _Shapes(core).run(torch.zeros(EXAMPLE_BATCH, samples), torch.zeros(EXAMPLE_BATCH, dtype=torch.int32))
    return _Builder(core, samples).run()


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["size"] = tuple(value.shape)
        return value


def _sizes(node: fx.Node) -> tuple[int, ...]:
    """Shape of one block's part of a node's value."""
    first, *rest = node.meta["size"]
    return (first // EXAMPLE_BATCH, *rest)


def _size(node: fx.Node) -> int:
    return int(np.prod(_sizes(node)))


def _in_order(core: fx.GraphModule) -> list[fx.Node]:
    """The nodes, what depends on qindex alone first, so that a product before it can take it in."""
    early: list[fx.Node] = []
    for node in core.graph.nodes:
        if (
            node.target == "qindex"
            or (node.op == "call_function" and set(node.all_input_nodes) <= set(early))
            or node.op == "get_attr"
        ):
            early.append(node)
    return early + [node for node in core.graph.nodes if node not in set(early)]


@dataclass
class _Open:
    """An operation to which what follows it may still be added."""

    values: dict[str, Any]
    node: fx.Node
    free: list[str] = field(default_factory=lambda: ["pre", "scale", "shift", "act"])

    def take(self, slot: str, value: Any) -> bool:
        """Fill a slot; what stands before it can no longer be filled."""
        if slot not in self.free:
            return False
        self.values[slot] = value
        self.free = self.free[self.free.index(slot) + 1 :]
        return True


class _Builder:
    def __init__(self, core: fx.GraphModule, samples: int) -> None:
        self.core, self.samples = core, samples
        self.ops: list[Op] = []
        self.names: dict[fx.Node, str] = {}
        self.pieces: dict[fx.Node, list[fx.Node]] = {}
        self.fused: set[fx.Node] = set()

    def run(self) -> Program:
        for node in _in_order(self.core):
            if node.op == "placeholder":
                self.names[node] = LUMA if node.target == "luma" else str(node.target)
            elif node.op == "output":
                return Program(tuple(_late_lookups(self.ops)), self._logits(node.args[0]), self.samples)
            elif node.op != "get_attr" and node not in self.fused:
                self._emit(node)
        raise AssertionError("a graph has an output")

    def _logits(self, node: Any) -> tuple[tuple[str, int], ...]:
        return tuple((self.names[piece], _size(piece)) for piece in self.pieces.get(node, [node]))

    def _emit(self, node: fx.Node) -> None:
        if node.target is torch.reshape:
            (source,) = node.all_input_nodes
            if source in self.pieces:
                self.pieces[node] = self.pieces[source]
            else:
                self.names[node] = self.names[source]
        elif node.target is torch.cat:
            self.pieces[node] = list(node.all_input_nodes)
        else:
            self._close(self._start(node))

    def _start(self, node: fx.Node) -> _Open:
        """The operation that begins with a node."""
        values: dict[str, Any] = {"size": _size(node)}
        if node.target is F.embedding:
            qindex, table = node.all_input_nodes
            if self.names[qindex] != "qindex":
                raise _foreign(node)
            return _Open(values | {"kind": "lookup", "table": _array(value_of(self.core, table))}, node, [])
        if node.target in (torch.matmul, torch.addmm):
            *bias, row, matrix = node.args
            if not isinstance(matrix, fx.Node) or matrix.op != "get_attr" or not isinstance(row, fx.Node):
                raise _foreign(node)
            added = _array(value_of(self.core, bias[0])) if bias and isinstance(bias[0], fx.Node) else None
            weights = _array(value_of(self.core, matrix))
            values |= {"kind": "product", "matrix": weights, "bias": added, "source": self._source(row)}
            return _Open(values | {"patches": values["size"] // weights.shape[1]}, node)
        if node.target is pool_row:
            row, index = node.all_input_nodes
            listed = value_of(self.core, index).numpy()
            return _Open(values | {"kind": "maximum", "source": self._source(row), "index": listed}, node, [])
        if node.target == "amax" and node.args[1:] == (1, True):
            (row,) = node.all_input_nodes
            listed = np.arange(_size(row))[None]
            return _Open(values | {"kind": "maximum", "source": self._source(row), "index": listed}, node, [])
        for operand in node.all_input_nodes:
            if operand.op != "get_attr" and _size(operand) == _size(node):
                opened = _Open(values | {"kind": "apply", "source": self._source(operand)}, operand)
                if self._extend(opened, node):
                    return opened
        raise _foreign(node)

    def _source(self, node: fx.Node) -> str:
        """The name of a row; pieces side by side are copied into one by products with parts of the identity."""
        if node not in self.pieces:
            return self.names[node]
        return self._joined(self.pieces[node], node.name)

    def _joined(self, pieces: list[fx.Node], name: str) -> str:
        total, at, before = sum(map(_size, pieces)), 0, None
        for i, piece in enumerate(pieces):
            place = np.zeros((_size(piece), total), np.float32)
            place[np.arange(_size(piece)), at + np.arange(_size(piece))] = 1
            made = f"{name}.{i}"
            self.ops.append(Op("product", made, total, self.names[piece], matrix=place, pre=before))
            before, at = Operand(made, 1, total), at + _size(piece)
        return made

    def _close(self, opened: _Open) -> None:
        """Add what follows as long as nothing else reads what is there, and finish."""
        while opened.free and len(opened.node.users) == 1:
            (user,) = opened.node.users
            if user.target is torch.reshape:
                opened.node = user
            elif not self._extend(opened, user):
                break
            self.fused.add(user)
        self.names[opened.node] = opened.node.name
        self.ops.append(Op(out=opened.node.name, **opened.values))

    def _extend(self, opened: _Open, user: fx.Node) -> bool:
        """Take one more node into an operation, if it fits and what else it reads is there."""
        if user.target in (F.relu, torch.sigmoid):
            if not opened.take("act", "relu" if user.target is F.relu else "sigmoid"):
                return False
        elif user.target in (operator.add, operator.mul) and _size(user) == _size(opened.node):
            others = [n for n in user.all_input_nodes if n is not opened.node]
            if len(others) != 1 or len(user.all_input_nodes) != 2:
                return False
            operand = self._operand(others[0], user)
            slots = ["scale"] if user.target is operator.mul else ["pre", "shift"]
            if operand is None or not any(opened.take(slot, operand) for slot in slots):
                return False
        else:
            return False
        opened.node = user
        return True

    def _operand(self, node: fx.Node, user: fx.Node) -> Operand | None:
        """A row read beside the main one, or None if it is not there yet or is spread in another way."""
        if node.op == "get_attr":
            table = _array(value_of(self.core, node)).reshape(1, -1)
            if node not in self.names:
                self.names[node] = node.name
                self.ops.append(Op("lookup", node.name, table.size, table=table))
            parts: tuple[int, ...] = (1, *value_of(self.core, node).shape)
        elif node in self.names:
            parts = _sizes(node)
        else:
            return None
        count = int(np.prod(parts))
        met = np.broadcast_to(np.arange(count).reshape(parts), _sizes(user)).ravel()
        steps = np.flatnonzero(np.diff(met, append=-1))
        div = int(steps[0]) + 1
        if not np.array_equal(met, np.arange(_size(user)) // div % count):
            return None
        return Operand(self.names[node], div, count)


def _late_lookups(ops: list[Op]) -> list[Op]:
    """The same operations, each lookup right before what first reads it, so that rows live no longer than needed."""
    lookups = {op.out: op for op in ops if op.kind == "lookup"}
    ordered: list[Op] = []
    for op in ops:
        if op.kind != "lookup":
            ordered += [lookups.pop(name) for name in op.reads() if name in lookups]
            ordered.append(op)
    return ordered


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.numpy(), np.float32)


def _foreign(node: fx.Node) -> MissingComponentError:
    what = getattr(node.target, "__name__", node.target)
    return MissingComponentError(f"the C library has no operation '{what}'", "export the model as ONNX")
