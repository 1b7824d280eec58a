"""Which ops a positive scale per channel passes: f(s · x) = s · f(x) (Nagel et al. 2019, section 4.1)."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from fxopt.ir.op_table import arguments, family
from fxopt.ir.printer import op_name
from fxopt.passes.quant.equalization.layers import LAYERS

_ALWAYS = (
    "relu leaky_relu abs clone contiguous detach alias lift_fresh_copy mul.Scalar div.Scalar add.Tensor sub.Tensor maximum "
    "minimum mean.dim sum.dim_IntList amax amin"
)
_ALWAYS_ATEN = frozenset(f"aten.{name}" for name in _ALWAYS.split())
_FAMILIES = ("pool", "resample", "layout", "copy", "pick", "join")
"""Whatever of these can be followed at all: they take maxima or means, or move elements."""
_BOUNDS = {
    "aten.clamp": ("min", "max"),
    "aten.clamp_min": ("min", None),
    "aten.hardtanh": ("min_val", "max_val"),
    "aten.relu6": (None, None),
}


def not_homogeneous(node: fx.Node) -> str | None:
    """Why a positive scale per channel does not pass an op; None where it does."""
    name = op_name(node)
    if name in LAYERS or name in _ALWAYS_ATEN or family(node) in _FAMILIES:
        return None
    if name == "aten.batch_norm":
        return "aten.batch_norm stands in between; fold it by fold_batch_norm first"
    if name in _BOUNDS:
        return _moved_bound(node)
    call = arguments(node) if hasattr(node.target, "_schema") else {}
    zero_padding = name == "aten.constant_pad_nd" or (name == "aten.pad" and call["mode"] == "constant")
    passes = (
        (name in ("aten.mul.Tensor", "aten.div.Tensor") and not isinstance(call["other"], fx.Node))
        or (name == "aten.prelu" and call["weight"].op == "get_attr")
        or ("dropout" in name and family(node) == "unary")
        or (zero_padding and not call["value"])
    )
    return None if passes else f"{name} is not positively homogeneous"


def bounds(node: fx.Node) -> tuple[Any, Any] | None:
    """Bounds (low, high) of an op that clamps; None for an op that does not."""
    name = op_name(node) if node.op == "call_function" else ""
    if name == "aten.relu6":
        return 0.0, 6.0
    if name not in _BOUNDS:
        return None
    call = arguments(node)
    low, high = (call[key] if key else None for key in _BOUNDS[name])
    return low, high


def _moved_bound(node: fx.Node) -> str | None:
    low, high = bounds(node) or (None, None)
    unbounded = (None, math.inf)
    if low in (0, None, -math.inf) and high in unbounded:
        return None
    if low == 0:
        return f"{op_name(node)} clamps at {high}, which a scale would move; widen_clamp makes it a relu"
    return f"{op_name(node)} clamps at {low} and {high}, which a scale would move"
