"""Rules of :mod:`fxopt.passes.prune.known.values` for ops element by element, norms and constants."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import Trait, has
from fxopt.passes.prune.known.cells import LIMIT, Cells, Known, Of, apply, fit, nothing, product, total, zeros_of


def unary(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """A continuous function, run on the constants; the in-place form too, on copies."""
    name, first = next(iter(call.items()))
    cells = of(first)
    rest = {k: v for k, v in call.items() if k != name}
    if cells is None or len(node.all_input_nodes) > 1:
        return None
    return apply(lambda c: node.target(c.clone(), **rest), cells)  # type: ignore[operator]


def zeros(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """A function that maps zero to zero, and of which nothing else is used."""
    cells = of(next(iter(call.values())))
    return None if cells is None else zeros_of(cells)


def same(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Ops that return their operand: casts between floats, copies."""
    return of(next(iter(call.values())))


def dropout(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """In training only zeros stay, if they do."""
    cells = same(node, call, of)
    if cells is None or not call["train"]:
        return cells
    return zeros_of(cells) if has(node, Trait.ZERO_PRESERVING) else None


def fill(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """A tensor filled with one number, which is ``fill_value``, ``value`` or ``s``, or in the op's name."""
    name = str(node.target)
    given = next((call[k] for k in ("fill_value", "value", "s") if k in call), 1.0 if "ones" in name else 0.0)
    if not isinstance(given, (int, float)):
        return None
    return torch.full([1] * node.meta["val"].dim(), float(given), dtype=torch.float64)


def copy(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """``copy_``: the source, broadcast."""
    return of(call["src"])


def add(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """``self + alpha · other``."""
    a, b = _pair(node, call, of)
    return None if a is None or b is None else total(a, product(b, _number(call["alpha"], of)))


def sub(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """``self - alpha · other``."""
    a, b = _pair(node, call, of)
    return None if a is None or b is None else total(a, -product(b, _number(call["alpha"], of)))


def rsub(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """``other - alpha · self``."""
    a, b = _pair(node, call, of)
    return None if a is None or b is None else total(b, -product(a, _number(call["alpha"], of)))


def mul(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """One zero factor is enough."""
    a, b = _pair(node, call, of)
    known = [c for c in (a, b) if c is not None]
    return product(known[0], known[1] if len(known) == 2 else nothing(0)) if known else None


def div(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Zero by an unknown is zero, as it would not be finite otherwise."""
    a, b = _pair(node, call, of)
    if a is None or b is None:
        return None if a is None else zeros_of(a)
    result = a.double() / b.double()
    result = torch.where((result == 0) & (a != 0), math.nan, result)
    return torch.where((a == 0) & b.isnan(), 0.0, result)


def extreme(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Maximum and minimum of two."""
    a, b = _pair(node, call, of)
    return None if a is None or b is None else node.target(a.double(), b.double())  # type: ignore[operator]


def where(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Known where both choices are the same."""
    return _agreed(node, of(call["self"]), of(call["other"]))


def masked_fill(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Known where the filled value equals the one it replaces."""
    return _agreed(node, of(call["self"]), of(call["value"]))


def batch_norm(node: fx.Node, call: dict[str, Any], of: Of) -> Known:
    """x · s + (beta - mean · s) with s = gamma / sqrt(var + eps): beta, whatever x is, where gamma is zero."""
    if call.get("training") or call["running_mean"] is None or call["running_var"] is None:
        return None
    mean, var = of(call["running_mean"]), of(call["running_var"])
    gamma = _or(call["weight"], 1.0, of)
    beta = _or(call["bias"], 0.0, of)
    if mean is None or var is None or gamma is None or beta is None:
        return None
    shape = node.meta["val"][0].shape if isinstance(node.meta["val"], (tuple, list)) else node.meta["val"].shape
    rank = len(shape)
    cells = of(call["input"])
    if cells is None and bool(gamma.all()):
        return None  # as of nearly every batch norm: no scale is zero
    mean, var, gamma, beta = (c.reshape(-1, *[1] * (rank - 2)) for c in (mean, var, gamma, beta))
    scale = product(gamma, torch.rsqrt(var.double() + call["eps"]))
    result = total(product(nothing(rank) if cells is None else cells, scale), -product(mean, scale), beta)
    return [result, None, None] if isinstance(node.meta["val"], (tuple, list)) else result


def layer_norm(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Bias, whatever the input is, where the weight is zero; the weight stands for the last dims."""
    weight = _or(call["weight"], 1.0, of)
    bias = _or(call["bias"], 0.0, of)
    if weight is None or bias is None or call["eps"] <= 0:  # without eps, zeros give no number
        return None
    return total(zeros_of(weight), bias)


def rms_norm(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Zero where the weight or the input is."""
    cells, weight = of(call["input"]), _or(call["weight"], 1.0, of)
    if call["eps"] is not None and call["eps"] <= 0:
        return None
    cells = nothing(0) if cells is None else zeros_of(cells)
    return product(cells, nothing(0) if weight is None else zeros_of(weight))


def channel_norm(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Group and instance norm: bias where the weight is zero, of dim 1."""
    weight, bias = _or(call["weight"], 1.0, of), _or(call["bias"], 0.0, of)
    if weight is None or bias is None or call["eps"] <= 0:
        return None
    return total(zeros_of(weight), bias).reshape(-1, *[1] * (node.meta["val"].dim() - 2))


def _pair(node: fx.Node, call: dict[str, Any], of: Of) -> tuple[Cells, Cells]:
    shape = node.meta["val"].shape
    a, b = (of(call[name]) for name in ("self", "other"))
    if (
        a is not None
        and b is not None
        and math.prod(map(max, zip_longest(a.shape[::-1], b.shape[::-1], fillvalue=1))) > LIMIT
    ):
        return None, None
    return (None if a is None else fit(a, shape)), (None if b is None else fit(b, shape))


def _agreed(node: fx.Node, a: Cells, b: Cells) -> Cells:
    if a is None or b is None:
        return None
    shape = node.meta["val"].shape
    a, b = fit(a, shape).double(), fit(b, shape).double()
    return torch.where(a == b, a, math.nan)


def _or(given: Any, default: float, of: Of) -> Cells:
    return of(default) if given is None else of(given)


def _number(value: Any, of: Of) -> torch.Tensor:
    found = of(value)
    return nothing(0) if found is None else found
