"""The mean of all values in place of attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import Trait, arguments, family, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry


@block_entry("attention")
def average_attention(block: Program, samples: Samples | None) -> str | None:
    """The mean of the values at every position: average pooling (Yu et al. 2022, section 3, without its window).

    Queries and keys go. Exact where the scores of attention are all equal.
    """
    found = weighted(block)
    if isinstance(found, str):
        return found
    product, values = found
    mean = block.call(torch.ops.aten.mean.dim, values, [-2], True, like=product)
    size: Any = product.meta["val"].shape[-2]
    if isinstance(size, torch.SymInt):
        query = product.all_input_nodes[0]
        size = block.call(torch.ops.aten.sym_size.int, query, query.meta["val"].dim() - 2, like=mean)
    dims = product.meta["val"].dim()
    last = size if isinstance(size, fx.Node) else mean
    spread = block.call(torch.ops.aten.expand.default, mean, [*[-1] * (dims - 2), size, -1], like=last)
    block.replace(product, spread)
    return None


def weighted(block: Program) -> tuple[fx.Node, fx.Node] | str:
    """The product of the attention weights with the values, and the values; or why weights of another kind do not fit."""
    for node in block.find("aten.scaled_dot_product_attention"):
        call = arguments(node)
        if call["attn_mask"] is not None or call["is_causal"]:
            return "it has a mask, which would not be known"
        if call["enable_gqa"]:
            return "its heads share keys"
        return node, call["value"]
    for node in block.graph.nodes:
        if family(node) == "softmax":
            return _written_out(node)
    return "it has no attention"


def _written_out(node: fx.Node) -> tuple[fx.Node, fx.Node] | str:
    above = node.all_input_nodes[0]
    while family(above) in ("unary", "binary"):
        if len(above.all_input_nodes) > 1:
            return "it has a mask, which would not be known"
        above = above.all_input_nodes[0]
    below = next(iter(node.users))
    while has(below, Trait.SAME_VALUE) or has(below, Trait.DROPOUT):
        below = next(iter(below.users))
    if op_name(below) not in ("aten.matmul", "aten.bmm"):
        return f"{op_name(below)} does not weigh values"
    values = below.args[1]
    if not isinstance(values, fx.Node) or node.meta["val"].dim() != below.meta["val"].dim():
        return f"{op_name(below)} does not weigh values"
    return below, values
