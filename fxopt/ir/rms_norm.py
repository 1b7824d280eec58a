"""RMS norms that are written out, as most models have them: what stands where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import Trait, arguments, has
from fxopt.ir.printer import op_name


@dataclass(frozen=True)
class WrittenRMSNorm:
    """The ops of x / sqrt(mean(x²) + eps), without the weight that may multiply it.

    ``value`` is x, before casts that change nothing, ``dims`` are counted from the end, and ``product`` is the result.
    """

    value: fx.Node
    square: fx.Node
    root: fx.Node
    product: fx.Node
    eps: float
    dims: tuple[int, ...]


def match_rms_norm(root: fx.Node) -> WrittenRMSNorm | None:
    """The norm that a reciprocal root ``aten.rsqrt`` is of; None for another one."""
    total = unchanged_source(root.args[0])
    if total is None or op_name(total) not in ("aten.add.Tensor", "aten.add.Scalar"):
        return None
    mean, eps = total.args[:2]
    if isinstance(mean, (int, float)):
        mean, eps = eps, mean
    mean = unchanged_source(mean)
    if mean is None or not isinstance(eps, (int, float)) or op_name(mean) != "aten.mean.dim":
        return None
    call = arguments(mean)
    square = unchanged_source(call["self"])
    if square is None or call["dtype"] is not None or not call["keepdim"] or not call["dim"]:
        return None
    if not (
        (op_name(square) == "aten.mul.Tensor" and square.args[0] is square.args[1])
        or (op_name(square) == "aten.pow.Tensor_Scalar" and square.args[1] == 2)
    ):
        return None
    rank = mean.meta["val"].dim()
    origin = unchanged_source(square.args[0])
    for user in root.users:
        if op_name(user) == "aten.mul.Tensor" and {unchanged_source(n) for n in user.args[:2]} == {origin, root}:
            assert origin is not None
            dims = tuple(sorted(d % rank - rank for d in call["dim"]))
            return WrittenRMSNorm(origin, square, root, user, float(eps), dims)
    return None


def unchanged_source(node: Any) -> fx.Node | None:
    """What a value is, number for number and in the same dtype, before casts and copies; None if it is no tensor."""
    while isinstance(node, fx.Node) and node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        same = has(node, Trait.SAME_VALUE) or has(node, Trait.CAST)
        if not same or node.meta["val"].dtype != node.args[0].meta["val"].dtype:
            break
        node = node.args[0]
    return node if isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor) else None
