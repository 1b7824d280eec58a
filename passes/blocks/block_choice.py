"""One form for each block or none, as a mixed-integer linear program."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp


@dataclass(frozen=True)
class Term:
    """What a choice adds: to the loss of the outputs, and to the cost of the net, as a share of the whole."""

    loss: float
    cost: float


def choose(
    groups: Sequence[Sequence[Term]],
    crossed: Collection[tuple[int, int]],
    pairs: Mapping[tuple[tuple[int, int], tuple[int, int]], Term],
    limit: float,
    others: Collection[frozenset[tuple[int, int]]] = (),
) -> frozenset[tuple[int, int]] | None:
    """The choices ``(group, option)``, one of a group at most, with the least loss of those that cost at most ``limit``.

    minimise Σ loss·x + Σ loss·y subject to Σ cost·x + Σ cost·y ≤ limit, where y = 1 for a pair of which both are chosen;
    of ``crossed`` groups one is chosen from at most, and the choice is none of ``others``. Solved exactly, by HiGHS.
    None where nothing fits.
    """
    options = [(g, k) for g, group in enumerate(groups) for k in range(len(group))]
    index = {option: i for i, option in enumerate(options)}
    terms = [groups[g][k] for g, k in options]
    linked = [(index[a], index[b], term) for (a, b), term in pairs.items()]
    count, size = len(options), len(options) + len(linked)
    every = [*terms, *(term for _, _, term in linked)]
    if not size:
        return frozenset() if limit >= 0 and frozenset() not in others else None
    rows: list[tuple[NDArray[np.float64], float]] = [(np.array([t.cost for t in every]), limit)]

    def row(entries: Mapping[int, float], bound: float) -> None:
        values = np.zeros(size)
        for i, value in entries.items():
            values[i] += value
        rows.append((values, bound))

    for g, group in enumerate(groups):
        row({index[g, k]: 1.0 for k in range(len(group))}, 1)
    for a, b in crossed:
        row({index[g, k]: 1.0 for g in (a, b) for k in range(len(groups[g]))}, 1)
    for i, (a, b, _) in enumerate(linked):
        row({a: 1.0, b: 1.0, count + i: -1.0}, 1)
        row({count + i: 1.0, a: -1.0}, 0)
        row({count + i: 1.0, b: -1.0}, 0)
    for other in others:
        row({i: 1.0 if option in other else -1.0 for i, option in enumerate(options)}, len(other) - 1)
    solved = milp(
        np.array([t.loss for t in every]),
        constraints=LinearConstraint(np.array([r for r, _ in rows]), ub=[b for _, b in rows]),
        integrality=np.ones(size),
        bounds=Bounds(0, 1),
    )
    if solved.x is None:
        return None
    return frozenset(option for i, option in enumerate(options) if solved.x[i] > 0.5)
