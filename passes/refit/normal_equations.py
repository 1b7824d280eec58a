"""Least squares from sums over rows: ridge regression of a layer's residual, with the zeros of its weight kept."""

from __future__ import annotations

import copy

import torch

from fxopt.ir.transfer import CPU, take

_PATTERNS = 8
"""Patterns of zeros that are solved one by one; more of them, and all rows are solved together by conjugate gradients."""
_STEPS = 500
_CLOSE = 1e-9


class NormalEquations:
    """XᵀX, XᵀE and the squares of E, float64, for rows X of a layer's inputs and E of its residual, by group.

    The last column of X is one, for the bias. They take ``groups · (n + 1)²`` floats, however many rows are added.
    """

    def __init__(self, groups: int, columns: int, outs: int, device: torch.device = CPU) -> None:
        self.rows = 0
        self.gram = torch.zeros(groups, columns + 1, columns + 1, dtype=torch.float64, device=device)
        self.cross = torch.zeros(groups, columns + 1, outs, dtype=torch.float64, device=device)
        self.squares = 0.0

    def add(self, x: torch.Tensor, lack: torch.Tensor) -> None:
        """Add rows ``x [groups, rows, n]`` and ``lack [groups, rows, out]`` float64."""
        x = torch.nn.functional.pad(x, (0, 1), value=1.0)
        self.rows += x.shape[1]
        self.gram += x.mT @ x
        self.cross += x.mT @ lack
        self.squares += float(lack.square().sum())

    def taken(self) -> NormalEquations:
        """The same sums on the CPU."""
        there = copy.copy(self)
        there.gram, there.cross = take((self.gram, self.cross))
        return there

    def __add__(self, other: NormalEquations) -> NormalEquations:
        groups, columns, outs = self.cross.shape
        both = NormalEquations(groups, columns - 1, outs)
        both.rows, both.squares = self.rows + other.rows, self.squares + other.squares
        both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
        return both

    def of_blocks(self, weight: torch.Tensor, block: int) -> NormalEquations:
        """The equations of a factor for every ``block`` neighbouring columns of ``weight`` float64 [out, n], by output.

        A change of a factor by δ moves the output by δ·x·w over the block.
        """
        outs, columns = weight.shape
        blocks = -(-columns // block)
        found = NormalEquations(outs, blocks, 1)
        found.rows, found.squares = self.rows, self.squares
        which = torch.arange(columns) // block
        for out, row in enumerate(weight):
            into = torch.zeros(columns + 1, blocks + 1, dtype=torch.float64)
            into[torch.arange(columns), which] = row
            into[-1, -1] = 1
            found.gram[out] = into.T @ (self.gram[0] @ into)
            found.cross[out] = into.T @ self.cross[0, :, out : out + 1]
        return found

    def error(self, change: torch.Tensor) -> float:
        """‖E - X·change‖² for a change ``[groups, n + 1, out]``."""
        return self.squares + float((change * (self.gram @ change - 2 * self.cross)).sum())

    def solved(self, free: torch.Tensor, ridge: float) -> torch.Tensor:
        """The change ``[groups, n + 1, out]`` with the least ‖E - X·change‖² + λ‖change‖², zero where not ``free``.

        λ is ``ridge`` times the mean square of the columns; of their deviations, where the bias, which has no λ, is free.
        """
        count = max(self.rows, 1)
        squares = self.gram.diagonal(dim1=1, dim2=2)[:, :-1]
        if bool(free[:, -1].any()):
            squares = squares - self.gram[:, :-1, -1].square() / count
        found = torch.zeros_like(self.cross)
        for group, mask in enumerate(free):
            gram = self.gram[group].clone()
            tiny = torch.finfo(torch.float64).tiny
            gram.diagonal()[:-1] += ridge * squares[group].clamp_min(0).mean().clamp_min(tiny)
            found[group] = _solved(gram, self.cross[group], mask)
        return found


def _solved(gram: torch.Tensor, cross: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """The solution of the equations ``gram [n, n]``, ``cross [n, out]`` in the unknowns that are ``free [n, out]``."""
    patterns, which = free.unique(dim=1, return_inverse=True)
    if patterns.shape[1] > _PATTERNS:
        return _by_gradients(gram, cross * free, free)
    found = torch.zeros_like(cross)
    for k, pattern in enumerate(patterns.T):
        rows, outs = pattern.nonzero()[:, 0], (which == k).nonzero()[:, 0]
        if len(rows):
            factor = torch.linalg.cholesky(gram[rows[:, None], rows])
            found[rows[:, None], outs] = torch.cholesky_solve(cross[rows[:, None], outs], factor)
    return found


def _by_gradients(gram: torch.Tensor, cross: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """As :func:`_solved`, every output a system of its own, by conjugate gradients scaled by the diagonal (Saad 2003, 9.1)."""
    scale = free / gram.diagonal()[:, None]
    found, left = torch.zeros_like(cross), cross.clone()
    towards = scaled = scale * left
    product, goal = (left * scaled).sum(0), _CLOSE**2 * cross.square().sum(0)
    for _ in range(min(_STEPS, len(gram))):
        if bool((left.square().sum(0) <= goal).all()):
            break
        moved = (gram @ towards) * free
        step = product / (towards * moved).sum(0).clamp_min(1e-300)
        found, left = found + step * towards, left - step * moved
        scaled = scale * left
        before, product = product, (left * scaled).sum(0)
        towards = scaled + product / before.clamp_min(1e-300) * towards
    return found
