"""Which of many scored elements go: the lowest of all, or the lowest in every group of a few."""

from __future__ import annotations

import torch

from fxopt.ir.op_table import arguments
from fxopt.passes.common.stored_weights import LayerWeight, element_numbers


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mark exactly ``count`` lowest of scores [n] in a mask bool [n]; of equal ones the first."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    if not count:
        return chosen
    limit = scores.kthvalue(count).values
    chosen = scores < limit
    ties = (scores == limit).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def lowest_in_groups(scores: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the ``count`` lowest in every row of ``groups``, indices [g, m] into scores [n]; of equal ones the first."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    order = scores[groups].argsort(dim=1, stable=True)[:, :count]
    chosen[groups.gather(1, order)] = True
    return chosen


def summed_groups(weight: LayerWeight, size: int) -> torch.Tensor | str:
    """Flat indices int64 [g, size] of neighbours along the weight's contraction dim, or why there are none.

    It is that of the input channels: at every output channel and kernel position, ``size`` neighbouring inputs
    are a group, as sparse tensor cores want it (Mishra et al. 2021, "Accelerating sparse deep neural networks").
    """
    found: list[torch.Tensor] = []
    for reader in weight.readers:
        numbers = element_numbers(weight, reader) if reader.dim is not None else None
        if reader.dim is None or numbers is None:
            return "along which dim of the weight it sums is not known"
        length = numbers.shape[reader.dim]
        if reader.dim == 0:  # a transposed convolution, whose groups lie one after the other in this dim
            length //= arguments(reader.layer)["groups"]
        if length % size:
            return f"the {length} inputs that it sums over are no multiple of {size}"
        found.append(numbers.movedim(reader.dim, -1).reshape(-1, size))
    groups = torch.cat(found)
    if _repeats(groups):  # several layers, or one that reads an element twice
        groups = groups.unique(dim=0)
    if _repeats(groups):
        return "the layers that share the weight sum over different dims of it"
    return groups


def _repeats(groups: torch.Tensor) -> bool:
    return bool((groups.flatten().bincount() > 1).any())
