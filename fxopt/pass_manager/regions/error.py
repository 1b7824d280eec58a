"""The error between the two sides of a region, and whether rounding alone may explain it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.numerics.edge_values import PATTERNS
from fxopt.numerics.error_metrics import bulk_scale, clearly_close, is_discrete, relative_error

_UNITS = 30
"""Rounding may change a value as much as so many units in the last place of the leaves do ..."""

_UNSTABLE = 1e-5
"""... and an element that these change by more than this, relative, is ignored: it is close to a step or a pole."""

_CANCELLED = 1e-13
"""Share of the largest intermediate number that may remain where terms cancel."""


def errors_of(want: Any, got: Any, rows: int) -> Iterator[tuple[float, int | None]]:
    """The largest relative error of the rows of each pattern, by their own scale; of all (None) where ``rows`` is 0."""
    a, b = pytree.tree_leaves(want), pytree.tree_leaves(got)
    if len(a) != len(b):
        yield math.inf, None
        return
    for x, y in zip(a, b, strict=True):
        tensors = isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
        if tensors and (x.dtype != y.dtype or x.shape != y.shape):
            yield math.inf, None
            continue
        patterns = range(min(len(PATTERNS), rows)) if _has_rows(x, rows) else (None,)
        for pattern in patterns:
            u, v = of_pattern(x, rows, pattern), of_pattern(y, rows, pattern)
            yield 0.0 if tensors and clearly_close(u, v, 1e-12) else relative_error(u, v), pattern


def of_pattern(value: Any, rows: int, pattern: int | None) -> Any:
    """The rows of a value with a pattern; all of it where it has no such rows."""
    return value[pattern :: len(PATTERNS)] if pattern is not None and _has_rows(value, rows) else value


def merged_special(value: Any) -> Any:
    """Infinities of either sign and NaN as one."""
    if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
        return torch.where(value.isfinite(), value, torch.full_like(value, math.nan))
    return value


def nudged(leaves: Mapping[fx.Node, Any]) -> Iterator[dict[fx.Node, Any]]:
    """The leaves perturbed as by rounding: all up, all down, and each at random. Zeros stay, as they are exact."""
    for seed in range(4):
        random = torch.Generator().manual_seed(seed)
        moved = {}
        for node, value in leaves.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                signs = torch.rand(value.shape, generator=random) - 0.5 if seed > 1 else torch.tensor(0.5 - seed)
                value = value * (1 + _UNITS * torch.finfo(value.dtype).eps * signs.sign().to(value.dtype))
            moved[node] = value
        yield moved


def is_rounding(want: Any, got: Any, moved: Sequence[Any], largest: float) -> bool:
    """Whether the difference of two values may be rounding.

    ``moved`` is the first with the leaves :func:`nudged`, ``largest`` the largest intermediate number.
    """
    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
        return False
    if want.dtype != got.dtype or want.shape != got.shape or not want.numel():
        return False
    if is_discrete(want):
        stable = torch.stack([m == want for m in moved]).all(0) if moved else torch.ones_like(want, dtype=torch.bool)
        return bool((want == got)[stable].all())
    scale = bulk_scale(want)
    if scale == 0:  # a value that should be zero has no scale of its own
        return _distance(want, got).amax().item() <= _CANCELLED * largest
    unit = want.abs().nan_to_num(0.0, 0.0).clamp(min=scale)
    room = torch.stack([_distance(want, m) / unit for m in moved]).amax(0) if moved else torch.zeros_like(unit)
    stable = room <= _UNSTABLE
    allowed = room[stable].amax().item() if bool(stable.any()) else 0.0
    left = _CANCELLED * largest / scale
    return bool(((_distance(want, got) / unit)[stable] <= max(allowed, left if left <= _UNSTABLE else 0.0)).all())


def largest_of(values: Sequence[Any], rows: int, pattern: int | None) -> float:
    """The largest finite number in the rows of a pattern."""
    return max((_largest(of_pattern(v, rows, pattern)) for v in values), default=0.0)


def _distance(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    same = (want == got) | (want.isnan() & got.isnan())
    return (want - got).abs().masked_fill(same, 0.0).nan_to_num(math.inf, math.inf)


def _has_rows(value: Any, rows: int) -> bool:
    return bool(rows) and isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == rows


def _largest(value: Any) -> float:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
        return 0.0
    return value.abs().nan_to_num(0.0, 0.0, 0.0).max().item()
