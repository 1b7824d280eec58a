"""Criteria of importance: each yields, for one weight dim after another, a score for every atom."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from fxopt.passes.prune.coupling.groups import WeightAxis
from fxopt.passes.prune.importance.activation import activation, wanda
from fxopt.passes.prune.importance.cells_of_atoms import (
    Question,
    Scored,
    cells_by_atom,
    is_scale_of_batch_norm,
    summed_by_atom,
)
from fxopt.passes.prune.importance.gradients import mean_gradients, squared_gradients

Criterion = Callable[[Question], Iterator[Scored]]

_CHUNK = 512


def l1(asked: Question) -> Iterator[Scored]:
    """Σ|w| (Li et al. 2017, section 3.1)."""
    return _masses(asked, torch.abs)


def l2(asked: Question) -> Iterator[Scored]:
    """Σw² (Fang et al. 2023, section 3.4)."""
    return _masses(asked, torch.square)


def batch_norm(asked: Question) -> Iterator[Scored]:
    """|γ| (Liu et al. 2017, section 3)."""
    for place in filter(is_scale_of_batch_norm, asked.places):
        yield summed_by_atom(place.rows, asked.weight(place).abs())


def taylor(asked: Question) -> Iterator[Scored]:
    """|Σ w·g|, with g the mean gradient of the loss (Molchanov et al. 2019, eq. 8, without the square)."""
    slopes = mean_gradients(
        asked.program, asked.workload, asked.who, samples=asked.samples, seed=asked.seed, device=asked.device
    )
    for place in asked.places:
        if place.weight in slopes:
            atoms, sums = summed_by_atom(place.rows, _sum(asked.weight(place) * slopes[place.weight], place.dim))
            yield atoms, abs(sums)


def hessian(asked: Question) -> Iterator[Scored]:
    """½ Σ w²·E[g²]: the saliency of LeCun et al. 1990 (eq. 5), with the Fisher information for the curvature."""
    curvature = squared_gradients(
        asked.program, asked.workload, asked.who, samples=asked.samples, seed=asked.seed, device=asked.device
    )
    for place in asked.places:
        if place.weight in curvature:
            saliency = asked.weight(place) ** 2 * curvature[place.weight] / 2
            yield summed_by_atom(place.rows, _sum(saliency, place.dim))


def fpgm(asked: Question) -> Iterator[Scored]:
    """Sum of the Euclidean distances to the filters of all other atoms of the group (He et al. 2019, eq. 4)."""
    for group in asked.groups:
        for place in asked.places_of(group):
            if not place.consumes and asked.tensors[place.weight].dim() > 1:
                cells = cells_by_atom(asked.weight(place), place, group.atoms).double()
                yield group.atoms, torch.cat([torch.cdist(part, cells).sum(1) for part in cells.split(_CHUNK)]).numpy()


def _masses(asked: Question, size: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Scored]:
    """Sums over the sizes of all elements, for one weight dim after another; a weight is gone through once for all its dims."""
    of_weight: dict[str, list[WeightAxis]] = {}
    for place in asked.places:
        of_weight.setdefault(place.weight, []).append(place)
    sums: dict[int, torch.Tensor] = {}
    for where in of_weight.values():
        cells = size(asked.weight(where[0]))
        sums |= {id(place): _mass(cells, place.dim) for place in where}
    return (summed_by_atom(place.rows, sums[id(place)]) for place in asked.places)


def _mass(cells: torch.Tensor, dim: int) -> torch.Tensor:
    """Sums [n] over the elements of every index, none of them negative, in the order of memory."""
    before, after = tuple(range(dim)), tuple(range(1, cells.dim() - dim))
    sums = cells.sum(before) if before else cells
    return sums.sum(after) if after else sums


def _sum(cells: torch.Tensor, dim: int) -> torch.Tensor:
    return cells.sum(_others(cells, dim), dtype=torch.float64) if cells.dim() > 1 else cells


def _others(weight: torch.Tensor, dim: int) -> list[int]:
    return [i for i in range(weight.dim()) if i != dim]


CRITERIA: dict[str, Criterion] = {f.__name__: f for f in (l1, l2, batch_norm, taylor, hessian, activation, wanda, fpgm)}
