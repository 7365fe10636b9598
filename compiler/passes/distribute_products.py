"""Let two branches share a product where they differ by an adapter: products distribute over sums.

    x ─┬──────────────► M                      x ─► M ─┬─────────────►
       └► .. r U ─► + ─► M        becomes               └► r (U M) + ─►

Stage 1 and the later stages put the same matrix behind the bare trunk and behind the adapted one. The sum, the product
with U and the second product with M become one small product.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from compiler.passes.product_nodes import drop_unused, product_of, value_of


@torch.no_grad()
def distribute_products(lowered: fx.GraphModule) -> int:
    """Rewrite, in place, every (x + r U) M + b whose x M + b is computed earlier; returns how many.

    Args:
        lowered: from compiler.passes.lower_to_products.lower_model, in float32.
    """
    count = 0
    for total in list(lowered.graph.nodes):
        if total.target is not operator.add:
            continue
        for x, added in (total.args, total.args[::-1]):
            if not isinstance(x, fx.Node) or not isinstance(added, fx.Node):
                continue
            products = [(user, _sameproduct_of(lowered, user, total, x)) for user in total.users]
            spread = _smallproduct_of(lowered, added, total)
            # All of them or none: the sum is to disappear.
            if spread is None or not products or any(shared is None for _, shared in products):
                continue
            for user, shared in products:
                _rewrite(lowered, user, shared, *spread, name=f"distributed{count}")
                count += 1
            break
    drop_unused(lowered)
    return count


def _sameproduct_of(lowered: fx.GraphModule, node: fx.Node, total: fx.Node, x: fx.Node) -> fx.Node | None:
    """Of a product that reads `total`: an earlier product of x with the same matrix and bias."""
    wanted = product_of(node)
    if wanted is None or wanted.row is not total:
        return None
    for candidate in lowered.graph.nodes:
        if candidate is node:
            return None
        found = product_of(candidate)
        if found is None or found.row is not x or (found.bias is None) != (wanted.bias is None):
            continue
        pairs = [(found.matrix, wanted.matrix)]
        if found.bias is not None and wanted.bias is not None:
            pairs.append((found.bias, wanted.bias))
        if all(torch.equal(value_of(lowered, a), value_of(lowered, b)) for a, b in pairs):
            assert isinstance(candidate, fx.Node)
            return candidate
    return None


def _rewrite(
    lowered: fx.GraphModule, node: fx.Node, shared: fx.Node | None, small: fx.Node, matrix: Tensor, name: str
) -> None:
    product = product_of(node)
    assert product is not None
    combined = matrix.double() @ value_of(lowered, product.matrix).double()
    lowered.register_buffer(name, combined.to(matrix.dtype))
    with lowered.graph.inserting_before(node):
        difference = lowered.graph.call_function(torch.matmul, (small, lowered.graph.get_attr(name)))
        node.replace_all_uses_with(lowered.graph.call_function(operator.add, (shared, difference)))
    lowered.graph.erase_node(node)


def _smallproduct_of(lowered: fx.GraphModule, added: fx.Node, user: fx.Node) -> tuple[fx.Node, Tensor] | None:
    """The row r and the matrix U with `added` = r U, seen through reshapes into patches."""
    patched = added.target is torch.reshape
    inner = added.args[0] if patched else added
    if not isinstance(inner, fx.Node) or set(added.users) != {user}:
        return None
    found = product_of(inner)
    if found is None or found.bias is not None:
        return None
    matrix = value_of(lowered, found.matrix)
    if not patched:
        return found.row, matrix
    row = found.row
    if row.target is not torch.reshape:
        return None
    # Rows [N * P, patch] were rows [N, P * patch], and the result is read as rows [N, P * out].
    size = added.args[1]
    assert isinstance(size, tuple) and isinstance(row.args[0], fx.Node)
    patches, rest = divmod(int(str(size[-1])), matrix.shape[1])
    if len(size) != 2 or rest:
        return None
    return row.args[0], torch.block_diag(*[matrix] * patches)
