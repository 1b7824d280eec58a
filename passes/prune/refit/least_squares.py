"""Ridge regression of what a layer lacks, with the strength that does best on rows left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths to choose from, in mean squares of the principal values."""

_HELD_OUT = 5
"""One row in so many is held out, in one block: neighbours come from one image."""


@dataclass(frozen=True)
class Fit:
    """What to add to a weight ``[columns, out]`` and a bias ``[out]``; squared errors on the held-out rows."""

    change: torch.Tensor
    shift: torch.Tensor
    error_without: float
    error: float


def fitted(x: torch.Tensor, lack: torch.Tensor, *, shifted: bool, ridges: Sequence[float] = RIDGES) -> Fit:
    """Find the change with the least ‖lack - x·change - shift‖² + λ‖change‖².

    ``x [rows, columns]`` and ``lack [rows, out]`` are float64, with five rows or more. The shift is 0 unless ``shifted``.
    λ is the one of ``ridges`` with the least error on the last fifth of the rows; then all rows are fitted with it.
    """
    cut = len(x) - len(x) // _HELD_OUT
    errors = {}
    for ridge in ridges:
        change, shift = _solved(x[:cut], lack[:cut], shifted, ridge)
        errors[ridge] = _square(lack[cut:] - x[cut:] @ change - shift)
    best = min(errors, key=errors.__getitem__)
    return Fit(*_solved(x, lack, shifted, best), _square(lack[cut:]), errors[best])


def _solved(x: torch.Tensor, lack: torch.Tensor, shifted: bool, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    means = (x.mean(0), lack.mean(0)) if shifted else (x.new_zeros(x.shape[1]), lack.new_zeros(lack.shape[1]))
    x, lack = x - means[0], lack - means[1]
    wide = x.shape[1] > len(x)  # then the equations of the rows are fewer, and have the same solution
    gram = x @ x.T if wide else x.T @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp_min(torch.finfo(x.dtype).tiny))
    factor = torch.linalg.cholesky(gram)
    change = x.T @ torch.cholesky_solve(lack, factor) if wide else torch.cholesky_solve(x.T @ lack, factor)
    return change, means[1] - means[0] @ change


def _square(values: torch.Tensor) -> float:
    return float(values.square().sum())
