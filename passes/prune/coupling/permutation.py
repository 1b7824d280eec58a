"""Atoms that may change places with one another, and what that does to the indices of every dim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import Rows
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.groups import Group
from fxopt.passes.prune.coupling.sweep import Sweep

_Ints = NDArray[np.int64]
_Hashes = NDArray[np.uint64]
_NUMBERS = ("aten.arange", "aten.linspace")


@dataclass(frozen=True)
class Exchange:
    """Of one group: sets of atoms that may change places among themselves, in the order of their indices.

    ``numbered`` is a node by which positions are numbered, so that nothing may move. ``twice`` is a node whose value has
    a monomial at two indices: which of the two goes where is not said by the atoms, so that moving them has to be tried.
    """

    group: Group
    classes: tuple[_Ints, ...]
    numbered: fx.Node | None = None
    twice: fx.Node | None = None


def exchangeable(sweep: Sweep, groups: Sequence[Group]) -> list[Exchange]:
    """Which atoms of each group may change places.

    Two atoms may if each dim of each value holds them alike: the monomials with the one are those with the other, one put
    in the other's place. A slice of half of the channels tells its half from the rest.
    """
    owner = np.full(len(sweep.atoms), -1)
    for number, group in enumerate(groups):
        owner[group.atoms] = number
    random = np.random.default_rng(0).integers(1, 1 << 63, len(sweep.atoms), dtype=np.uint64)
    random[0] = 0
    held = np.zeros(len(sweep.atoms), np.uint64)
    numbered: dict[int, fx.Node] = {}
    twice: dict[int, fx.Node] = {}
    for salt, (node, rows) in enumerate(_arrays(sweep), 1):
        row, column = np.nonzero(owner[rows] >= 0)
        if not len(row):
            continue
        sums = random[rows].sum(1)  # atoms are never twice in a row, so a sum is a set
        atoms = rows[row, column]
        np.add.at(held, atoms, _mixed(sums[row] - random[atoms] + np.uint64(salt)))
        if op_name(node).startswith(_NUMBERS):
            numbered.update(dict.fromkeys(owner[atoms].tolist(), node))
        _, same, counts = np.unique(sums, return_inverse=True, return_counts=True)
        if (repeated := counts[same][row] > 1).any():
            for number in np.unique(owner[atoms[repeated]]).tolist():
                twice.setdefault(number, node)
    return [
        Exchange(group, _classes(group, held), numbered.get(number), twice.get(number))
        for number, group in enumerate(groups)
    ]


def _classes(group: Group, held: _Hashes) -> tuple[_Ints, ...]:
    """Atoms of equal signature, in the order of the group."""
    _, which = np.unique(held[group.atoms], return_inverse=True)
    return tuple(group.atoms[which == number] for number in np.unique(which))


def _mixed(values: _Hashes) -> _Hashes:
    """A finalizer of hashes (Appleby 2011, MurmurHash3): sums of its results tell sets apart."""
    for _ in range(2):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return values ^ (values >> np.uint64(33))


def _arrays(sweep: Sweep) -> Iterator[tuple[fx.Node, Rows]]:
    """The resolved monomials of each dim of each value, each array once."""
    seen: set[int] = set()
    for node in sweep.axes:
        for axis in sweep.all_axes(node):
            for rows in ax.arrays(axis):
                if id(rows) not in seen:
                    seen.add(id(rows))
                    yield node, sweep.resolve(rows)


@dataclass
class Permutation:
    """``moved[atom]`` is the atom that comes in the place of another; itself for those that stay."""

    sweep: Sweep
    moved: _Ints
    _found: dict[int, _Ints | None] = field(default_factory=dict)

    def index(self, axis: Axis) -> torch.Tensor | None:
        """For each index of an axis the one that comes there, int64; None where all stay.

        Of a monomial that is there several times, the first stays the first. Raises ValueError for an axis that the
        atoms' new order does not lead to, or that a dynamic size is part of.
        """
        orders = [self._order(factor) if isinstance(factor, np.ndarray) else None for factor in axis]
        if all(order is None for order in orders):
            return None
        if ax.length(axis) >= ax.SYMBOLIC:
            raise ValueError("a dynamic size is part of it")
        index = np.zeros(1, np.int64)
        for factor, order in zip(axis, orders, strict=True):
            size = factor if isinstance(factor, int) else len(factor)
            index = (index[:, None] * size + (np.arange(size) if order is None else order)).ravel()
        return torch.from_numpy(index)

    def _order(self, rows: Rows) -> _Ints | None:
        if id(rows) not in self._found:  # the sweep holds the arrays, so that no other one gets an id
            resolved = self.sweep.resolve(rows)
            old, new = np.sort(resolved, 1), np.sort(self.moved[resolved], 1)
            if np.array_equal(old, new):
                self._found[id(rows)] = None
            else:
                before, after = np.lexsort(old.T), np.lexsort(new.T)
                if not np.array_equal(old[before], new[after]):
                    raise ValueError("its indices do not follow the new order")
                order = np.empty(len(rows), np.int64)
                order[after] = before
                self._found[id(rows)] = order
        return self._found[id(rows)]


def permute(permutation: Permutation) -> None:
    """Permute all weights of the sweep's program, and claim the new order of every value that has one."""
    sweep = permutation.sweep
    program = sweep.program
    changed: dict[str, torch.Tensor] = {}
    done: set[int] = set()
    for node in program.graph.nodes:
        tensor = program.tensor(node)
        if tensor is None or id(tensor) in done:
            continue
        done.add(id(tensor))
        for dim, axis in enumerate(sweep.of(node)):
            if (index := permutation.index(axis)) is not None:
                name = str(node.target)
                changed[name] = changed.get(name, tensor.detach()).index_select(dim, index)
                here = program.kept_indices.setdefault(name, {})
                here[dim] = here[dim][index] if dim in here else index
    program.set_tensors(changed)
    for node in program.graph.nodes:
        if node.op == "call_function" and family(node) != "check":
            _claim(permutation, node)


def _claim(permutation: Permutation, node: fx.Node) -> None:
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return
    try:
        indices = [permutation.index(axis) for axis in permutation.sweep.of(node)]
    except ValueError:  # a dynamic size is merged in: those who read it say so
        return
    kept = {dim: index for dim, index in enumerate(indices) if index is not None}
    if kept:  # a sum over permuted indices is rounded another way, and may be nothing but rounding
        permutation.sweep.program.claims[node.name] = (node.name, kept)
