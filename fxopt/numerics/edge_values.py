"""Tensors of edge cases: signs, scales, exact zeros, ties, saturating values, denormals, NaN and infinities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

EDGES = (
    0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.0, -2.0, 3.0, -3.0, 6.0, -6.0, 20.0, -20.0, 90.0, -90.0, 127.0, -128.0, 1e4,
    -1e4, 1e-2, -1e-2, 1e-7, 1e-40, -1e-40, 1e-310, math.pi,
)  # fmt: skip
"""Where functions have kinks, ties or poles, begin to saturate, or where float32 and float64 have denormals."""

PATTERNS = (
    "random numbers", "large numbers", "small numbers", "edge values", "positive numbers", "negative numbers", "zeros",
    "ties", "denormals",
)  # fmt: skip
"""Patterns of the rows of a tensor, in this order, repeated."""

NOT_FINITE = "NaN and infinities"
"""A tensor of random numbers, some of which are NaN or infinite."""


def edge_tensor(
    shape: Sequence[int], dtype: torch.dtype, pattern: str | None, constants: Iterable[float], seed: int
) -> torch.Tensor:
    """A tensor of a pattern, or with None of all patterns in turn along the first dim.

    ``constants`` are numbers that the code compares with or adds: they, and their neighbours, are edges too. Bools
    are drawn at random; integers are 0 and 1.
    """
    random = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(2, shape, generator=random).bool()
    if dtype.is_complex:
        real, imaginary = (edge_tensor(shape, torch.float64, pattern, constants, seed + i) for i in (0, 1))
        return torch.complex(real, imaginary).to(dtype)
    if not dtype.is_floating_point:
        return torch.randint(2, shape, generator=random, dtype=dtype)
    if pattern is not None:
        return _filled(shape, pattern, constants, random).to(dtype)
    made = torch.randn(shape, generator=random, dtype=torch.float64)
    for i, of_row in enumerate(PATTERNS[: shape[0]]):
        rows = made[i :: len(PATTERNS)]
        rows.copy_(_filled(rows.shape, of_row, constants, random, rows))
    return made.to(dtype)


def _filled(
    shape: Sequence[int],
    pattern: str,
    constants: Iterable[float],
    random: torch.Generator,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """A tensor of a pattern, derived from normal numbers where it has random ones."""
    match pattern:
        case "zeros":
            return torch.zeros(shape, dtype=torch.float64)
        case "edge values":
            beside = [c + d for c in constants for d in (0.0, abs(c) * 1e-6 + 1e-12, -abs(c) * 1e-6 - 1e-12)]
            pool = torch.tensor([*EDGES, *beside], dtype=torch.float64)
            return pool[torch.randint(len(pool), tuple(shape), generator=random)]
    if noise is None:
        noise = torch.randn(shape, generator=random, dtype=torch.float64)
    match pattern:
        case "large numbers":
            return noise * 1e4
        case "small numbers":
            return noise * 1e-2
        case "positive numbers":
            return noise.abs() + 1e-3
        case "negative numbers":
            return -noise.abs() - 1e-3
        case "ties":
            return (noise * 4).round() / 2
        case "denormals":
            return noise * 1e-40
        case "NaN and infinities":
            special = torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64)
            drawn = special[torch.randint(3, tuple(shape), generator=random)]
            return torch.where(torch.rand(tuple(shape), generator=random) < 0.2, drawn, noise)
    return noise
