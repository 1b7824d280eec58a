"""Which ops commute with a positive scale per channel: f(s · x) = s · f(x) (Nagel et al. 2019, section 4.1)."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from fxopt.ir.op_table import Trait, arguments, bounds, family, has, pads_zeros
from fxopt.ir.printer import op_name
from fxopt.passes.quant.equalization.layers import LAYERS


def not_homogeneous(node: fx.Node) -> str | None:
    """Why an op does not commute with a positive scale per channel; None where it does."""
    name = op_name(node)
    if name in LAYERS or pads_zeros(node):
        return None
    if name == "aten.batch_norm":
        return "aten.batch_norm stands in between; fold it by fold_batch_norm first"
    if family(node) != "random" and (has(node, Trait.HOMOGENEOUS) or _scales_first(node)):
        return None
    clamp = bounds(node)
    return _moved_bound(node, *clamp) if clamp else f"{name} is not positively homogeneous"


def _scales_first(node: fx.Node) -> bool:
    """Whether it is homogeneous in its first operand, and the others are numbers or the stored slopes of a prelu."""
    if not has(node, Trait.HOMOGENEOUS_IN_FIRST):
        return False
    others = [value for value in [*arguments(node).values()][1:] if isinstance(value, fx.Node)]
    return not others or (op_name(node) == "aten.prelu" and others[0].op == "get_attr")


def _moved_bound(node: fx.Node, low: Any, high: Any) -> str | None:
    if low in (0, None, -math.inf) and high in (None, math.inf):
        return None
    if low == 0:
        return f"{op_name(node)} clamps at {high}, which a scale would move; widen_clamp makes it a relu"
    return f"{op_name(node)} clamps at {low} and {high}, which a scale would move"
