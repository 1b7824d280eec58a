"""The constants of a value, cell by cell: a tensor with NaN where the value is unknown.

Every dim has its full size, or size 1 where the value is the same all along it. A symbolic dim of size k·n, such as heads
merged into a dynamic batch, has size 1 or k: the k constants repeat along it. So the tensor has a size for any batch.

A zero is exactly zero in whatever precision the program computes. Any other constant is right in sign and to a thousandth
at worst: where rounding could matter more, the cell is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

Cells = torch.Tensor | None
"""The constants of one value; None where nothing is known."""

Known = Cells | list[Cells]
"""The constants of a node's result: one value, or several."""

Of = Callable[[Any], Cells]
"""Returns the constants of an argument, a node or a number."""

LIMIT = 1 << 22
"""A value of more cells than this is unknown."""

_CANCELLED = 1e-3
_STEP = 1e-3


def nothing(rank: int) -> torch.Tensor:
    """Unknown cells."""
    return torch.full([1] * rank, math.nan, dtype=torch.float64)


def extents(shape: Iterable[Any]) -> list[int]:
    """Full size of each dim, in cells: k for a symbolic size k·n."""
    return [size if isinstance(size, int) else _factor(size) for size in shape]


def _factor(size: torch.SymInt) -> int:
    factor = size.node.expr.as_coeff_Mul()[0]
    return int(factor) if factor.is_Integer and factor > 0 else 1


def symbolic(shape: Iterable[Any]) -> list[int]:
    """The dims of symbolic size."""
    return [dim for dim, size in enumerate(shape) if not isinstance(size, int)]


def settle(cells: torch.Tensor, dims: Iterable[int]) -> torch.Tensor:
    """Keep only the cells that are the same all along ``dims``, which get size 1."""
    for dim in dims:
        if cells.shape[dim] > 1:
            first = cells.narrow(dim, 0, 1)
            cells = torch.where((cells == first).all(dim, keepdim=True), first, math.nan)
    return cells


def collapse(cells: torch.Tensor, dims: Iterable[int]) -> torch.Tensor:
    """Reduce to size 1 each of ``dims`` along which all cells are equal, or all unknown."""
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
    """Align with a shape that the value is broadcast to; where cells repeat otherwise than that, keep only equal ones."""
    full = extents(shape)
    cells = cells.reshape([1] * (len(full) - cells.dim()) + list(cells.shape))
    return settle(cells, [dim for dim, size in enumerate(full) if cells.shape[dim] not in (1, size)])


def zeros_of(cells: torch.Tensor) -> torch.Tensor:
    """The zeros alone."""
    return torch.where(cells == 0, 0.0, math.nan).double()


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a · b, where zero times unknown is zero; a product that underflows is unknown."""
    result = a.double() * b.double()
    return torch.where((a == 0) | (b == 0), 0.0, torch.where(result == 0, math.nan, result))


def total(*terms: torch.Tensor) -> torch.Tensor:
    """The sum of terms, elementwise."""
    wide = torch.broadcast_tensors(*(term.double() for term in terms))
    return reliable(sum(wide[1:], wide[0]), sum((t.abs() for t in wide[1:]), wide[0].abs()))


def reliable(result: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """A sum, unknown where its terms, of ``size`` together, nearly cancel, so that their rounding matters.

    A sum of zeros is zero.
    """
    return torch.where((size == 0) | (result.abs() > _CANCELLED * size), result, math.nan)


def apply(function: Callable[[torch.Tensor], torch.Tensor], cells: torch.Tensor) -> torch.Tensor:
    """A continuous function of each known cell, unknown where it is ill-conditioned at that constant.

    So log(1) is not known to be zero, as only the exact constant gives that; relu of a negative one is.
    """
    cells = cells.double()
    result = function(cells)
    steep = torch.zeros_like(cells, dtype=torch.bool)
    for factor in (1 - _STEP, 1 + _STEP):
        steep |= ~((function(cells * factor) - result).abs() <= 0.5 * result.abs())
    return torch.where(cells.isnan() | steep, math.nan, result)
