"""The weights that a criterion of importance reads, and their elements by atom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.nn.utils import get_total_norm

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.prune.coupling.atoms import Rows
from fxopt.passes.prune.coupling.groups import Group, WeightAxis
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.workload import Workload

Scored = tuple[NDArray[np.int64], NDArray[np.float64]]
"""The scores from one dim of a weight: atoms, none of them twice, and a value for each."""

_ASIDE = {"bias", "running_mean", "running_var"}


@dataclass(frozen=True)
class Question:
    """The groups to score, and the data that may be used."""

    program: Program
    workload: Workload | None
    sweep: Sweep
    groups: Sequence[Group]
    samples: int
    seed: int
    who: str
    device: str = "cpu"

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights by name."""
        return self.program.tensors()

    @cached_property
    def places(self) -> list[WeightAxis]:
        """The weight dims of all groups whose elements count, each once."""
        every = {id(place): place for group in self.groups for place in self.places_of(group)}
        return list(every.values())

    def places_of(self, group: Group) -> list[WeightAxis]:
        """A group's weight dims whose elements count: no biases, no running statistics, floating point alone."""
        return [p for p in group.places if self.tensors[p.weight].is_floating_point() and not _roles(p.node) & _ASIDE]

    def weight(self, place: WeightAxis) -> torch.Tensor:
        """The weight, float32 or wider."""
        tensor = self.tensors[place.weight].detach()
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def check_finite(self) -> None:
        """Raise PassError that names a weight of a group that holds NaN or infinity."""
        nodes = {place.weight: place.node for group in self.groups for place in group.places}
        nodes = {name: node for name, node in nodes.items() if self.tensors[name].is_floating_point()}
        # a quick check first, by the norm of all; it may overflow where all elements are finite
        if bool(get_total_norm([self.tensors[name].detach() for name in nodes]).isfinite()):
            return
        for name, node in nodes.items():
            if bool(self.tensors[name].isfinite().all()):
                continue
            reader = next(iter(node.users), node)
            raise self.program.fail(reader, f"{self.who}: the weight {name!r} holds NaN or infinity")


def _roles(node: fx.Node) -> set[str]:
    """Names of the arguments that a weight is passed as."""
    return {role for user in node.users for role in _arguments_of(user, node)}


def _arguments_of(user: fx.Node, node: fx.Node) -> Iterator[str]:
    if not hasattr(user.target, "_schema"):
        return
    for name, value in arguments(user).items():
        if value is node:
            yield "bias" if (op_name(user), name) == ("aten.addmm", "self") else name


def is_scale_of_batch_norm(place: WeightAxis) -> bool:
    """Whether it is the weight γ of a batch norm."""
    return any(op_name(u) == "aten.batch_norm" and "weight" in _arguments_of(u, place.node) for u in place.node.users)


def summed_by_atom(rows: Rows, values: torch.Tensor) -> Scored:
    """Sum values ``[n]`` of indices over the indices that each atom covers, by the monomials ``[n, k]`` of the indices."""
    if rows.shape[1] == 1 and rows[0, 0] and (rows[1:, 0] > rows[:-1, 0]).all():  # as of nearly every dim
        return rows[:, 0], values.double().numpy()
    atoms, where = np.unique(rows, return_inverse=True)
    weights = np.repeat(values.double().numpy(), rows.shape[1])
    sums = np.bincount(where.ravel(), weights, len(atoms))
    return atoms[atoms != 0], sums[atoms != 0]


def cells_by_atom(weight: torch.Tensor, place: WeightAxis, atoms: NDArray[np.int64]) -> torch.Tensor:
    """A copy of the elements as ``[atoms, elements]``; atoms that cover fewer indices than others are padded with zeros."""
    cells = weight.movedim(place.dim, 0).flatten(1) if weight.dim() > 1 else weight[:, None]
    position = np.full(max(place.rows.max(), atoms.max()) + 1, -1)
    position[atoms] = np.arange(len(atoms))
    index, column = np.nonzero(position[place.rows] >= 0)
    owner = position[place.rows[index, column]]
    order = np.argsort(owner, kind="stable")
    index, owner = index[order], owner[order]
    turn = np.arange(len(owner)) - np.searchsorted(owner, owner)
    made = cells.new_zeros(len(atoms), int(turn.max(initial=0)) + 1, cells.shape[1])
    made[torch.from_numpy(owner), torch.from_numpy(turn)] = cells[torch.from_numpy(index)]
    return made.flatten(1)
