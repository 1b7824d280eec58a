"""Rules of :mod:`fxopt.passes.prune.known.values` for sums: layers with weights, attention, pooling, means."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import DIRECT
from fxopt.ir.printer import op_name
from fxopt.passes.prune.coupling.nonzero import any_nonzero
from fxopt.passes.prune.known.cells import (
    Cells,
    Known,
    Of,
    fit,
    nothing,
    product,
    reliable,
    settle,
    spread,
    total,
    zeros_of,
)

_ROWS = 256


def linear(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """x · Wᵀ + b."""
    weight, x = of(call["weight"]), of(call["input"])
    if (weight is None and x is None) or call["weight"].meta["val"].dim() != 2:
        return None
    x = nothing(call["input"].meta["val"].dim()) if x is None else x
    weight = nothing(2) if weight is None else weight
    flat = x.dim() == 1
    result = contract(x[None] if flat else x, weight.t(), _length(call["input"], -1))
    if result is None:
        return None
    return plus_bias(result[0] if flat else result, call["bias"], of)


def matmul(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Matmul, mm, bmm, mv of two values."""
    first, second = list(call.values())[:2]
    return _matmul(node, first, second, of)


def addmm(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """addmm and baddbmm: beta · self + alpha · (first · second)."""
    _, first, second, *_ = call.values()
    result, bias = _matmul(node, first, second, of), of(call["self"])
    scales = [of(call["alpha"]), of(call["beta"])]
    if result is None or bias is None or scales[0] is None or scales[1] is None:
        return None
    return total(product(result, scales[0]), product(fit(bias, node.meta["val"].shape), scales[1]))


def _matmul(node: fx.Node, first: fx.Node, second: fx.Node, of: Of) -> Cells:
    a, b = of(first), of(second)
    if a is None and b is None:
        return None
    rank_a, rank_b = first.meta["val"].dim(), second.meta["val"].dim()
    a = nothing(rank_a) if a is None else a
    b = nothing(rank_b) if b is None else b
    a = a[None] if rank_a == 1 else a
    b = b[:, None] if rank_b == 1 else b
    batch = node.meta["val"].shape[: max(rank_a, rank_b) - 2] if max(rank_a, rank_b) > 2 else ()
    a = fit(a, (*batch, *a.shape[-2:]))
    b = b if b.dim() == 2 else fit(b, (*batch, *b.shape[-2:]))
    result = contract(a, b, _length(first, -1))
    if result is None:
        return None
    result = result.squeeze(-2) if rank_a == 1 else result
    return result.squeeze(-1) if rank_b == 1 else result


def contract(a: torch.Tensor, b: torch.Tensor, length: int | None) -> Cells:
    """a[…, M, K] · b[…, K, N], with ``length`` the full size of K; None for a symbolic one."""
    k = max(a.shape[-1], b.shape[-2])
    if a.shape[-1] not in (1, k) or b.shape[-2] not in (1, k):
        return None
    times = 1 if k == length else length if k == 1 else None  # k cells repeat along a size that is not known
    if math.prod(a.shape[:-1]) > _ROWS:
        a = settle(a, range(a.dim() - 1))
    a, b = a.expand(*a.shape[:-1], k), b.expand(*b.shape[:-2], k, b.shape[-1])
    unknown = a.isnan()
    if unknown.all():
        a, unknown = a[..., :1, :], unknown[..., :1, :]
        bad = any_nonzero(b.mT).unsqueeze(-2)
    else:
        reads = b != 0
        bad = (unknown.float() @ reads.float()) + ((a != 0) & ~unknown).float() @ b.isnan().float() > 0
    if bad.all():
        return None
    columns = ~bad.flatten(0, -2).all(0)
    a, b = _filled(a), _filled(b[..., columns])
    size = a.abs() @ b.abs()
    value = reliable(a @ b * times, size * times) if times is not None else zeros_of(size)
    result = torch.full([*value.shape[:-1], len(columns)], math.nan, dtype=torch.float64)
    result[..., columns] = torch.where(bad[..., columns], math.nan, value)
    return result


def plus_bias(cells: torch.Tensor, bias: Any, of: Of) -> Cells:
    """Add the bias of a layer, that of the last dim."""
    added = of(0.0 if bias is None else bias)
    return None if added is None else total(cells, added)


def convolution(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Convolutions of every kind, grouped and transposed ones too.

    A constant other than zero counts where the result is the same everywhere: not with zero padding, not transposed.
    """
    weight, shape = of(call["weight"]), call["weight"].meta["val"].shape
    full = None if weight is None else spread(weight, shape) if weight.shape != shape else weight
    if full is None:
        return None
    rank, dims, groups = node.meta["val"].dim(), len(shape) - 2, call["groups"]
    at = rank - dims - 1
    transposed = op_name(node).startswith("aten.conv_transpose") or call.get("transposed", False)
    channels = shape[0] if transposed else shape[1] * groups
    x = of(call["input"])
    if x is not None:
        x = settle(x, [d for d in range(rank) if d != at]).reshape(-1).expand(channels).reshape(groups, -1)
    if transposed:
        kernel = full.reshape(groups, channels // groups, shape[1], -1).transpose(1, 2)
    else:
        kernel = full.reshape(groups, shape[0] // groups, shape[1], -1)
    result = _weighted(x, kernel, uniform=not transposed and not pads(call))
    if result is None:
        return None
    cells = plus_bias(result.reshape(-1), call["bias"], of)
    return None if cells is None else cells.reshape([-1 if d == at else 1 for d in range(rank)])


def pads(call: dict[str, Any]) -> bool:
    """Whether a convolution, by its arguments, pads with zeros."""
    if call["padding"] == "same":
        return any(size != 1 for size in call["weight"].meta["val"].shape[2:])
    return call["padding"] != "valid" and any(_list(call["padding"]))


def _weighted(x: Cells, kernel: torch.Tensor, *, uniform: bool) -> Cells:
    """Sums over inputs x[G, I] and weights kernel[G, O, I, K]; where positions differ (not ``uniform``), only zeros count."""
    blocked = None if x is None else x.isnan() if uniform else x != 0
    if blocked is None or blocked.all():
        bad = any_nonzero(kernel.flatten(2))
    else:
        bad = (any_nonzero(kernel) & blocked[:, None]).any(-1)
    if bad.all():
        return None
    x = nothing(2).expand(len(kernel), kernel.shape[2]) if x is None else x
    group, output = (~bad).nonzero(as_tuple=True)
    used = kernel[group, output].double()
    value = _filled(x[group])
    sums = product(value, used.sum(-1)).sum(-1)
    size = product(value.abs(), used.abs().sum(-1)).sum(-1)
    result = torch.full(bad.shape, math.nan, dtype=torch.float64)
    result[group, output] = reliable(sums, size)
    return result


def _filled(cells: torch.Tensor) -> torch.Tensor:
    return torch.where(cells.isnan(), 0.0, cells).double()


def attention(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """A value channel that is zero for all keys gives zero, whatever the weights are."""
    cells = of(call["value"])
    if cells is None:
        return None
    cells = zeros_of(settle(cells, [cells.dim() - 2]))
    if call["enable_gqa"] and cells.shape[-3] > 1:
        heads, fewer = (call[k].meta["val"].shape[-3] for k in ("query", "value"))
        if not isinstance(heads, int) or not isinstance(fewer, int):
            return None
        cells = cells.repeat_interleave(heads // fewer, -3)
    return cells


def einsum(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """A factor that is zero all over gives zero."""
    known = [of(operand) for operand in call["tensors"]]
    if not any(c is not None and bool((c == 0).all()) for c in known):
        return None
    return torch.zeros([1] * node.meta["val"].dim(), dtype=torch.float64)


def reduce(node: fx.Node, call: dict[str, Any], of: Of) -> Known:
    """Sums and norms of zeros; means, maxima and minima of cells that are constant along the dims."""
    cells = of(call["self"])
    if cells is None:
        return None
    dim, rank = call.get("dim"), cells.dim()
    given = [dim] if isinstance(dim, int) else list(dim or ())
    dims = sorted({d % rank for d in given} if rank else ()) or list(range(rank))
    cells = settle(cells, dims)
    cells = zeros_of(cells) if any(word in op_name(node) for word in ("sum", "norm")) else cells
    if not call.get("keepdim"):
        cells = cells.squeeze(dims) if rank else cells
    return [cells, None] if isinstance(node.meta["val"], (tuple, list)) else cells


def pool(node: fx.Node, call: dict[str, Any], of: Of) -> Known:
    """Pooling of cells that are the same all over a map; only zeros where padding or a divisor matters."""
    cells = of(call["self"])
    if cells is None:
        return None
    name = op_name(node)
    dims = int(re.findall(r"(\d)d", name)[0])
    cells = settle(cells, range(cells.dim() - dims, cells.dim()))
    if "max" in name and any(step != 1 for step in _list(call.get("dilation", 1))):
        return None
    if "avg" in name and (any(_list(call.get("padding", 0))) or call.get("divisor_override") is not None):
        cells = zeros_of(cells)
    return [cells, None] if isinstance(node.meta["val"], (tuple, list)) else cells


def resample(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Interpolation of cells that are the same all over a map; of a grid, zeros alone, as it pads with them."""
    cells = of(next(iter(call.values())))
    if cells is None:
        return None
    cells = settle(cells, range(2, cells.dim()))
    return zeros_of(cells) if "grid" in op_name(node) else cells


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _length(node: fx.Node, dim: int) -> int | None:
    size = node.meta["val"].shape[dim]
    return size if isinstance(size, int) else None


CONVOLUTION_NAMES = (*DIRECT, "aten.convolution")
"""Convolutions that :func:`convolution` handles, besides the transposed ones."""
