"""A region run on values of its leaves: both sides, and how far apart they are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program
from fxopt.numerics.edge_values import PATTERNS
from fxopt.numerics.error_metrics import clearly_close, is_discrete, relative_error
from fxopt.numerics.random_draws import draw
from fxopt.pass_manager.region import Region

_ROUNDING = 30
"""Room for rounding: this many times what one unit in the last place of the leaves moves the value."""

_CHAOS = 1e-6
"""A value that such a unit moves by more than this proves nothing."""

_CANCELLED = 1e-13
"""Share of the largest number on the way to a value that may be left over where numbers cancel."""

Numbers = Mapping[fx.Node, Any]


class OldFails(Exception):
    """The program before does not run on these values of the leaves."""


class NewFails(Exception):
    """The program after does not run where the one before does."""


class RegionRun:
    """Runs regions of two programs, in float64 or in their own precision."""

    def __init__(self, before: Program, after: Program, draws: dict[str, str]) -> None:
        self._before, self._after, self._draws = before, after, draws

    def old(self, region: Region, leaves: Numbers) -> dict[fx.Node, Any]:
        """All values of the old side. Raises OldFails."""
        env = dict(leaves)
        try:
            for node in region.old:
                env[node] = self._value(self._before, node, env)
        except Exception as error:
            raise OldFails(str(error)) from error
        return env

    def new(self, region: Region, old: Numbers) -> dict[fx.Node, Any]:
        """All values of the new side, from those of the old. Raises NewFails."""
        env = {node: old[was] for node, was in region.cut.items()}
        try:
            for node in region.new:
                env[node] = self._value(self._after, node, env)
        except Exception as error:
            raise NewFails(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
        return env

    def _value(self, program: Program, node: fx.Node, env: Numbers) -> Any:
        if node.op == "get_attr":
            tensor = program.tensor(node)
            return program.module.get_submodule(str(node.target)) if tensor is None else tensor.detach()
        args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
        if node.op == "output":
            return args[0]
        if node.name in self._draws:
            return draw(node, args, kwargs, self._draws[node.name])
        return node.target(*args, **kwargs)  # type: ignore[operator]


def error_of(want: Any, got: Any, rows: int, *, finite: bool = True) -> tuple[float, int | None]:
    """The largest relative error and the pattern of the rows that have it; None where rows do not differ in pattern.

    Rows are measured by their own scale. Where ``finite`` is False only what is finite on both sides is compared, and
    whether it is.
    """
    a, b = pytree.tree_leaves(want), pytree.tree_leaves(got)
    if len(a) != len(b):
        return math.inf, None
    worst: tuple[float, int | None] = (0.0, None)
    for x, y in zip(a, b, strict=True):
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.dtype != y.dtype:
            return math.inf, None
        if not finite:
            x, y = _masked(x), _masked(y)
        for pattern, (u, v) in _rows(x, y, rows):
            if isinstance(u, torch.Tensor) and clearly_close(u, v, 1e-12):
                continue
            worst = max(worst, (relative_error(u, v), pattern), key=lambda pair: pair[0])
    return worst


def _masked(value: Any) -> Any:
    """Infinities of either sign and NaN as one."""
    if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
        return torch.where(value.isfinite(), value, torch.full_like(value, math.nan))
    return value


def _rows(want: Any, got: Any, rows: int) -> Iterator[tuple[int | None, tuple[Any, Any]]]:
    ok = isinstance(want, torch.Tensor) and isinstance(got, torch.Tensor) and want.shape == got.shape
    if not rows or not ok or not want.dim() or want.shape[0] != rows:
        yield None, (want, got)
        return
    for i in range(min(len(PATTERNS), rows)):
        yield i, (want[i :: len(PATTERNS)], got[i :: len(PATTERNS)])


def room_for_rounding(
    run: Callable[[Numbers], dict[fx.Node, Any]],
    region: Region,
    leaves: Numbers,
    old: Numbers,
    new: Numbers,
    rows: int,
    pattern: int | None,
) -> float:
    """Relative error that rounding may cause in the rows of a pattern; inf where these prove nothing."""  # fmt: skip
    want = _part(old[region.was], rows, pattern)
    moved = {}
    for seed in (0, 1):
        flips = torch.Generator().manual_seed(seed)
        moved = {n: _next(v, flips) if _is_float(v) else v for n, v in leaves.items()}
        with contextlib.suppress(OldFails):
            noise = relative_error(want, _part(run(moved)[region.was], rows, pattern))
            if noise > _CHAOS:
                return math.inf
            if noise:
                break
    else:
        noise = 0.0
    largest = max((_largest(_part(v, rows, pattern)) for v in (*old.values(), *new.values())), default=0.0)
    scale = _largest(want)
    if scale == 0:  # what should be zero has no scale of its own
        return math.inf if _largest(_part(new[region.goal], rows, pattern)) <= _CANCELLED * largest else 0.0
    left = _CANCELLED * largest / scale
    return max(_ROUNDING * noise, left if left <= _CHAOS else 0.0)


def _part(value: Any, rows: int, pattern: int | None) -> Any:
    whole = pattern is None or not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != rows
    return value if whole else value[pattern :: len(PATTERNS)]


def _largest(value: Any) -> float:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
        return 0.0
    return value.abs().nan_to_num(0.0, 0.0, 0.0).max().item()


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _next(tensor: torch.Tensor, flips: torch.Generator) -> torch.Tensor:
    up = torch.rand(tensor.shape, generator=flips) < 0.5
    return torch.nextafter(tensor, torch.where(up, torch.inf, -torch.inf).to(tensor.dtype))


def is_step(value: Any) -> bool:
    """Whether any tensor in it is of integers or bools."""
    return any(is_discrete(v) for v in pytree.tree_leaves(value))
