"""Decompositions by tensorly: tensor trains, Tucker, CP."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from fxopt.errors import UsageError
from fxopt.passes.common.weight_modes import Core, SplitWeight
from fxopt.passes.lowrank.chain import Chain, cp_pieces

_STEPS = 50
_CANCELLED = 100.0
"""A CP form whose terms are so many times larger than their sum has diverged: rounding would spoil it."""


def train(weight: SplitWeight, canonical: torch.Tensor, chain: Chain) -> list[Core]:
    """The cores of a chain for ``[groups, *modes]``, each group by TT-SVD (Oseledets 2011, algorithm 1).

    Exact where the ranks are those of the tensor; otherwise within √cuts of the best there is (theorem 2.2). Neighbours
    have the same norm, channel by channel, for rounding and training treat both alike.
    """
    pieces, bounds = chain.pieces(weight), [0, *chain.cuts, len(weight.modes)]
    merged = [math.prod(weight.modes[a:b]) for a, b in itertools.pairwise(bounds)]
    with _tensorly() as tl:
        groups = [tl.decomposition.tensor_train(g.reshape(merged), [1, *chain.ranks, 1]) for g in canonical]
    tensors = [torch.stack([_filled(group[k], chain, k) for group in groups]) for k in range(len(pieces))]
    for k in range(len(tensors) - 1):
        here, after = tensors[k].flatten(1, 2).norm(dim=1), tensors[k + 1].flatten(2).norm(dim=2)
        scale = torch.where((here > 0) & (after > 0), (after / here).sqrt(), 1)
        tensors[k] = tensors[k] * scale[:, None, None, :]
        tensors[k + 1] = tensors[k + 1] / scale[:, :, None, None]
    return [Core(piece, tensor) for piece, tensor in zip(pieces, tensors, strict=True)]


def product(weight: SplitWeight, cores: list[Core]) -> torch.Tensor:
    """The tensor ``[groups, *modes]`` of the cores of a train."""
    value = cores[0].tensor.flatten(1, -2)
    for core in cores[1:]:
        value = (value @ core.tensor.flatten(2)).reshape(len(value), -1, core.piece.outs)
    return value.reshape(weight.groups, *weight.modes)


def tucker(canonical: torch.Tensor, ranks: tuple[int, int]) -> torch.Tensor:
    """The nearest ``[groups, *modes]`` with these ranks of the first and last mode, by alternation (Kim et al. 2016)."""
    last = canonical.dim() - 2
    with _tensorly() as tl:
        found = []
        for group in canonical:
            (core, factors), _ = tl.decomposition.partial_tucker(group, list(ranks), modes=[0, last])
            found.append(tl.tenalg.multi_mode_dot(core, factors, modes=[0, last]))
    return torch.stack(found)


def cp(tensor: torch.Tensor, rank: int) -> list[torch.Tensor] | None:
    """Factors ``[mode, rank]`` float64 of a sum of ``rank`` outer products near ``[*modes]``, by alternating least squares.

    None where it diverges: not finite, no better than zero, or growing terms that cancel each other (a best one need not
    exist: de Silva & Lim 2008).
    """
    with _tensorly() as tl:
        try:
            scales, factors = tl.decomposition.parafac(tensor, rank, n_iter_max=_STEPS, tol=1e-6, random_state=0)
        except (RuntimeError, ValueError):  # torch's LinAlgError is a RuntimeError: the normal matrix is singular
            return None
    factors = [factors[0] * scales, *factors[1:]]
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    share = (norms.prod(0).clamp_min(1e-300) ** (1 / len(factors))) / norms.clamp_min(1e-300)
    factors = [factor * scale for factor, scale in zip(factors, share, strict=True)]
    size = tensor.norm()
    error = (cp_sum(factors) - tensor).norm() / size
    terms = torch.stack([factor.norm(dim=0) for factor in factors]).prod(0).norm() / size
    return factors if bool((error < 1) & (terms < _CANCELLED)) else None


def cp_sum(factors: list[torch.Tensor]) -> torch.Tensor:
    """The tensor of CP factors ``[mode, rank]``."""
    value = factors[0]
    for factor in factors[1:-1]:
        value = value.unsqueeze(-2) * factor
    return value @ factors[-1].T


def cp_cores(weight: SplitWeight, factors: list[torch.Tensor]) -> list[Core]:
    """The layers of CP factors ``[mode, rank]``."""
    rank = factors[0].shape[1]
    tensors = [factors[0], *(factor.T for factor in factors[1:-1]), factors[-1].T]
    return [Core(piece, tensor) for piece, tensor in zip(cp_pieces(weight, rank), tensors, strict=True)]


def _filled(core: torch.Tensor, chain: Chain, k: int) -> torch.Tensor:
    """A core ``[rank, modes, rank]`` padded to the ranks asked for: another group may need more than this one has."""
    before, after = ([1, *chain.ranks, 1][i] - n for i, n in ((k, core.shape[0]), (k + 1, core.shape[2])))
    return torch.nn.functional.pad(core, (0, after, 0, 0, 0, before))


@contextlib.contextmanager
def _tensorly() -> Iterator[Any]:
    """Tensorly on torch's tensors, for this thread. Raises UsageError where it is not installed."""
    try:
        import tensorly
        import tensorly.decomposition
        import tensorly.tenalg
    except ImportError:
        raise UsageError("low-rank decomposition needs tensorly: pip install 'fxopt[lowrank]'") from None
    with tensorly.backend_context("pytorch", local_threadsafe=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more terms than a mode is long are meant
        yield tensorly
