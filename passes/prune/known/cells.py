"""What is known of a value, cell by cell: a tensor of constants with NaN where nothing is known.

Every dim has its full size, or size 1 for "the same all along it". A symbolic dim of size k·n, such as heads merged into
a dynamic batch, has size 1 or k: the k constants repeat along it. So the tensor has a size whatever the batch is.

A zero is exactly zero in whatever precision the program computes. Any other constant is as right as its precision
allows, in sign and to a thousandth at worst: where rounding could weigh more, nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

Cells = torch.Tensor | None
"""What is known of one value; None where that is nothing."""

Known = Cells | list[Cells]
"""What is known of what a node returns: one value, or several."""

Of = Callable[[Any], Cells]
"""Gives what is known of an argument, a node or a number."""

LIMIT = 1 << 22
"""More cells than this are not worked out."""

_CANCELLED = 1e-3
_STEP = 1e-3


def nothing(rank: int) -> torch.Tensor:
    """Cells of which nothing is known."""
    return torch.full([1] * rank, math.nan, dtype=torch.float64)


def extents(shape: Iterable[Any]) -> list[int]:
    """Size of each dim in full, in cells: k for a symbolic size k·n."""
    return [size if isinstance(size, int) else _factor(size) for size in shape]


def _factor(size: torch.SymInt) -> int:
    factor = size.node.expr.as_coeff_Mul()[0]
    return int(factor) if factor.is_Integer and factor > 0 else 1


def symbolic(shape: Iterable[Any]) -> list[int]:
    """The dims whose size is not known."""
    return [dim for dim, size in enumerate(shape) if not isinstance(size, int)]


def settle(cells: torch.Tensor, dims: Iterable[int]) -> torch.Tensor:
    """Keep only what is the same all along ``dims``, which get size 1."""
    for dim in dims:
        if cells.shape[dim] > 1:
            first = cells.narrow(dim, 0, 1)
            cells = torch.where((cells == first).all(dim, keepdim=True), first, math.nan)
    return cells


def collapse(cells: torch.Tensor, dims: Iterable[int]) -> torch.Tensor:
    """Write with size 1 each of ``dims`` along which all cells are alike, unknown ones among themselves too."""
    for dim in dims:
        first = cells.narrow(dim, 0, 1)
        if cells.shape[dim] > 1 and bool(((cells == first) | (cells.isnan() & first.isnan())).all()):
            cells = first
    return cells


def spread(cells: torch.Tensor, sizes: Iterable[int]) -> Cells:
    """The cells with each dim of size 1 repeated to ``sizes``; None beyond the limit."""
    sizes = list(sizes)
    return cells.expand(sizes) if math.prod(sizes) <= LIMIT else None


def fit(cells: torch.Tensor, shape: Iterable[Any]) -> torch.Tensor:
    """Align with a shape that the value is broadcast to; a repetition that this shape does not have is settled."""
    full = extents(shape)
    cells = cells.reshape([1] * (len(full) - cells.dim()) + list(cells.shape))
    return settle(cells, [dim for dim, size in enumerate(full) if cells.shape[dim] not in (1, size)])


def zeros_of(cells: torch.Tensor) -> torch.Tensor:
    """The zeros alone."""
    return torch.where(cells == 0, 0.0, math.nan).double()


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a · b, where zero times whatever it may be is zero; a product too small to be told from zero is unknown."""
    result = a.double() * b.double()
    return torch.where((a == 0) | (b == 0), 0.0, torch.where(result == 0, math.nan, result))


def total(*terms: torch.Tensor) -> torch.Tensor:
    """The sum of terms, elementwise."""
    wide = torch.broadcast_tensors(*(term.double() for term in terms))
    return reliable(sum(wide[1:], wide[0]), sum((t.abs() for t in wide[1:]), wide[0].abs()))


def reliable(result: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """A sum, unknown where rounding of its terms, ``size`` together, would show: where they cancel each other.

    A sum of zeros is zero.
    """
    return torch.where((size == 0) | (result.abs() > _CANCELLED * size), result, math.nan)


def apply(function: Callable[[torch.Tensor], torch.Tensor], cells: torch.Tensor) -> torch.Tensor:
    """A continuous function of each known cell, unknown where a slightly different constant gives quite another result.

    So a zero that only an exact constant would give, such as log(1), is not claimed; relu of a negative one is.
    """
    cells = cells.double()
    result = function(cells)
    steep = torch.zeros_like(cells, dtype=torch.bool)
    for factor in (1 - _STEP, 1 + _STEP):
        steep |= ~((function(cells * factor) - result).abs() <= 0.5 * result.abs())
    return torch.where(cells.isnan() | steep, math.nan, result)
