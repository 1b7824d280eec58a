"""Groups: atoms of one kind that can be chosen among, such as the channels of a residual stream or the heads of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import fx

from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import Rows
from fxopt.passes.prune.coupling.sweep import Sweep

Unit = Literal["channels", "stream", "heads", "head_dims"]
"""Single indices; those that an RMS norm is over, as of a residual stream; blocks of neighbouring indices (heads, groups);
the same place in every block."""


@dataclass(frozen=True)
class WeightAxis:
    """A dim of a weight on which atoms lie: ``rows`` are its monomials; it produces the channels or consumes them."""

    weight: str
    node: fx.Node
    dim: int
    rows: Rows
    consumes: bool


@dataclass(frozen=True)
class Group:
    """Atoms that can be removed one by one, in the order of their indices, and where they lie."""

    name: str
    unit: Unit
    atoms: NDArray[np.int64]
    places: tuple[WeightAxis, ...]

    @property
    def arrays(self) -> list[Rows]:
        """The monomials of all places, each array once: many places have the same."""
        return list({id(place.rows): place.rows for place in self.places}.values())

    @property
    def form(self) -> tuple[tuple[str, int, bool], ...]:
        """What the group looks like, whatever its sizes: groups of one form are isomorphic (Fang et al. 2024)."""
        users = [(op_name(next(iter(p.node.users))), p.dim, p.consumes) for p in self.places]
        return tuple(sorted(set(users)))


def places(sweep: Sweep) -> list[WeightAxis]:
    """Every dim of every weight that has atoms, tied weights once."""
    eaten = {(id(sweep.program.tensor(c.weight)), c.dim) for c in sweep.contractions if c.weight is not None}
    seen: set[int] = set()
    found = []
    tensors = sweep.program.tensors()
    for node in sweep.program.graph.find_nodes(op="get_attr"):
        tensor = tensors.get(str(node.target))
        if tensor is None or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        for dim, axis in enumerate(sweep.of(node)):
            for rows in ax.arrays(axis):
                found.append(WeightAxis(str(node.target), node, dim, sweep.resolve(rows), (id(tensor), dim) in eaten))
    return found


def find_groups(sweep: Sweep) -> list[Group]:
    """All groups of a program, in the order of the graph. Atoms that must live whatever the weights are in none."""
    free = sweep.pinned == 0
    free[0] = False
    everywhere = places(sweep)
    label = _labels(sweep, free)
    by_label: dict[int, list[WeightAxis]] = {}
    of_dim = {id(place.rows): place.rows[free[place.rows]] for place in everywhere}  # equal monomials are one array
    numbers = {key: np.unique(label[atoms]).tolist() for key, atoms in of_dim.items()}
    for place in everywhere:
        for number in numbers[id(place.rows)]:
            by_label.setdefault(number, []).append(place)
    every = np.unique(np.concatenate([np.zeros(0, np.int64), *of_dim.values()]))
    every = every[np.argsort(label[every], kind="stable")]
    sections = np.searchsorted(label[every], [list(by_label), [number + 1 for number in by_label]])
    normed = _normed(sweep)
    made = []
    for (number, where), start, end in zip(by_label.items(), *sections, strict=True):
        producers = sorted((p for p in where if not p.consumes), key=lambda p: -p.rows.shape[1]) or where
        rows = producers[0].rows
        inside = rows[free[rows] & (label[rows] == number)]
        _, first = np.unique(inside, return_index=True)
        ordered = inside[np.sort(first)]
        rest = np.setdiff1d(every[start:end], ordered) if end - start > len(ordered) else every[:0]
        unit = _unit(rows, ordered)
        name = f"{producers[0].weight}[{producers[0].dim}]" + ("" if unit == "channels" else f" {unit}")
        if unit == "channels" and np.isin(ordered, normed).any():
            unit = "stream"
        made.append(Group(name, unit, np.concatenate([ordered, rest]), tuple(where)))
    return made


def _normed(sweep: Sweep) -> NDArray[np.int64]:
    """Atoms of the dims that RMS norms are over."""
    over = [sweep.resolve(c.rows) for c in sweep.contractions if op_name(c.node) == "aten.rms_norm"]
    return np.unique(np.concatenate([rows.ravel() for rows in over])) if over else np.zeros(0, np.int64)


def _unit(rows: Rows, atoms: NDArray[np.int64]) -> Unit:
    """Whether the atoms are indices of their own, or blocks, or places in blocks, of a dim with these monomials."""
    if rows.shape[1] == 1:
        return "channels"
    inside = np.isin(rows, atoms)
    if not (np.count_nonzero(rows[inside.any(1)], 1) > 1).any():
        return "channels"
    one = np.flatnonzero((rows == atoms[0]).any(1))
    return "heads" if len(one) > 1 and one[1] - one[0] == 1 else "head_dims"


def _labels(sweep: Sweep, free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each atom, equal for those of one group.

    Atoms belong together if they lie on one dim that a contraction, an embedding or the like makes, each as often as
    the other, and in the same column of its monomials: in a dim of 12 heads of 64, a head occurs 64 times.
    """
    pairs: list[NDArray[np.int64]] = []
    done: set[int] = set()
    for node in sweep.program.graph.nodes:
        makes = family(node) in ("contraction", "recurrent") or op_name(node) == "aten.embedding"
        if node.op != "call_function" or not makes:
            continue
        for axis in sweep.all_axes(node):
            for rows in map(sweep.resolve, ax.arrays(axis)):
                if id(rows) not in done:
                    done.add(id(rows))
                    pairs += _alike(rows, free)
    n = len(sweep.atoms)
    edges = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _alike(rows: Rows, free: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """For each column, pairs ``[n, 2]`` of an atom and one that occurs as often as it does."""
    counts = np.bincount(rows.ravel())
    pairs = []
    for column in rows.T:
        atoms = np.unique(column[free[column]])
        _, first, same = np.unique(counts[atoms], return_index=True, return_inverse=True)
        pairs.append(np.stack([atoms[first[same]], atoms], 1))
    return pairs
