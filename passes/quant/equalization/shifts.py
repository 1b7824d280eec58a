"""Which ops commute with subtracting a constant from a channel: f(x - c) = f(x) - c, where x stays above c."""

from __future__ import annotations

from torch import fx

from fxopt.ir.op_table import TRANSPOSED, Trait, arguments, family, has
from fxopt.ir.printer import op_name
from fxopt.passes.prune.known.sums import pads
from fxopt.passes.quant.equalization.layers import LAYERS


def not_shifting(node: fx.Node) -> str | None:
    """Why an op does not commute with a shift per channel, or a layer cannot absorb it; None where it does or can."""
    name = op_name(node)
    call = arguments(node) if hasattr(node.target, "_schema") else {}
    if name in LAYERS:
        return _not_taken(node)
    if family(node) == "pool" and "count_include_pad" in call:
        padded = call["padding"] not in (0, [0] * len(call["kernel_size"])) and call["count_include_pad"]
        whole = not padded and call.get("divisor_override") is None
        return None if whole else f"{name} counts the zeros beyond the border"
    if name == "aten.relu" or (has(node, Trait.SHIFT_EQUIVARIANT) and family(node) != "random"):
        return None
    return f"a constant does not pass {name}"


def _not_taken(node: fx.Node) -> str | None:
    call = arguments(node)
    if op_name(node) in TRANSPOSED:
        return "a transposed convolution does not spread a constant evenly"
    if op_name(node) != "aten.linear" and pads(call):
        return "pads with zeros: at the border it would read these instead of the constant"
    return "has no bias to take it up" if call["bias"] is None else None
