"""Singular values of a weight at its cuts, and its numerical rank."""

from __future__ import annotations

import torch

NOISE = 2.0**-20
"""Norm of what counts as rounding, relative to that of the weight."""


def squares(canonical: torch.Tensor, cut: int) -> torch.Tensor:
    """Squared singular values float64 ``[groups, full rank]`` at a cut of ``[groups, *modes]``, the largest first."""
    matrix = canonical.flatten(cut + 1).flatten(1, cut)
    gram = matrix @ matrix.mT if matrix.shape[1] <= matrix.shape[2] else matrix.mT @ matrix
    return torch.linalg.eigvalsh(gram).clamp_min(0).flip(-1)


def tails(values: torch.Tensor) -> torch.Tensor:
    """The truncation error at every rank from 0 to full, ``[..., full rank + 1]``: the sum of the squares left out."""
    sums = values.flip(-1).cumsum(-1).flip(-1)
    return torch.cat([sums, torch.zeros_like(sums[..., :1])], -1)


def numerical_rank(values: torch.Tensor) -> int:
    """The largest rank of the groups, given squares ``[groups, full rank]``, beyond what rounding alone adds.

    A weight of rank r that was rounded to float32 is within 2^-24 of it, relative in the Frobenius norm, so its tail at r is
    no larger (Eckart & Young 1936). The limit is 16 times that: a product of factors in float32 is rounded several times.
    """
    lost = tails(values)
    return int((lost > NOISE**2 * lost[..., :1]).sum(-1).max())
