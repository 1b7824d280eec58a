"""Attention as a single op."""

from __future__ import annotations

import math

from torch import fx

from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.rules_contraction import contract
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule


def _scale(cut: Cut, node: fx.Node) -> None:
    """Without a scale it divides by the root of the head's width, which must stay what it was."""
    width = cut.sweep.of(node.args[0])[-1]
    if arguments(node)["scale"] is None and cut.shrinks(width):
        set_argument(node, "scale", 1 / math.sqrt(ax.length(width)))


@rule("scaled_dot_product_attention", rewrite=_scale)
def attention(sweep: Sweep, node: fx.Node) -> Axes:
    """``query [*, h, l, e]``, ``key [*, g, s, e]``, ``value [*, g, s, v]``: e is summed over, s too, under a softmax.

    With ``enable_gqa`` each of g key and value heads serves h / g query heads.
    """
    call = arguments(node)
    q, k, v, mask = (sweep.of(call[name]) for name in ("query", "key", "value", "attn_mask"))
    sweep.pin([k[-2], v[-2]], node, "softmax over the keys")
    if call["is_causal"]:
        sweep.pin([q[-2]], node, "each query sees the keys up to its own position")
    width = sweep.unite(q[-1], k[-1], node)
    contract(sweep, node, width, (call["query"], -1), (call["key"], -1))
    heads = sweep.broadcast([k[:-2], v[:-2]], node)
    if call["enable_gqa"] and ax.length(q[-3]) != ax.length(heads[-1]):
        groups = ax.length(heads[-1])
        shape = [groups, ax.length(q[-3]) // groups]
        parts = ax.reshape(
            sweep.atoms, [q[-3]], shape, sweep.because(node, "its heads are grouped in another way elsewhere")
        )
        sweep.unite(parts[0], heads[-1], node)
        heads = [*sweep.broadcast([q[:-3], heads[:-1]], node), q[-3]]
    else:
        heads = sweep.broadcast([q[:-2], heads], node)
    if mask:
        sweep.pin(mask[-1:], node, "softmax over the keys")
        sweep.broadcast([[*heads, q[-2]], mask[:-1]], node)
    return [*heads, q[-2], v[-1]]
