"""Choose the least important atoms: so many of each group, or of all together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fxopt.passes.common.bisection import first
from fxopt.passes.prune.coupling.groups import Group

Scope = Literal["layer", "global", "isomorphic"]
"""Among which groups importance is compared: each by itself, all, or isomorphic ones (Fang et al. 2024)."""

Dead = NDArray[np.bool_]


class Chooser:
    """The atoms of groups in the order of importance, to be cut off at any ratio."""

    def __init__(
        self, groups: list[Group], scores: NDArray[np.float64], scope: Scope, min_channels: int, multiple: int
    ) -> None:
        self._groups, self._size = groups, len(scores)
        self._ranked = [g.atoms[np.argsort(scores[g.atoms], kind="stable")] for g in groups]
        self._scores = [scores[atoms] for atoms in self._ranked]
        self._most = [max(0, len(g.atoms) - max(1, min_channels)) for g in groups]
        self._multiple = multiple
        classes: dict[object, list[int]] = {}
        for i, group in enumerate(groups):
            key: object = i if scope == "layer" else group.form if scope == "isomorphic" else None
            classes.setdefault(key, []).append(i)
        self._classes = list(classes.values())

    def dead(self, ratio: float) -> Dead:
        """The atoms to remove: the share ``ratio`` of every class, as far as each group keeps its minimum.

        What a group keeps is rounded up to the multiple.
        """
        dead = np.zeros(self._size, np.bool_)
        for members in self._classes:
            for i, count in zip(members, self._counts(members, ratio), strict=True):
                dead[self._ranked[i][: self._rounded(i, int(count))]] = True
        return dead

    def _counts(self, members: list[int], ratio: float) -> NDArray[np.int64]:
        """How many of each group of a class are among its least important."""
        owner = np.concatenate([np.full(self._most[i], k) for k, i in enumerate(members)])
        scores = np.concatenate([self._scores[i][: self._most[i]] for i in members])
        wanted = math.floor(ratio * sum(len(self._groups[i].atoms) for i in members) + 1e-9)
        taken = np.argsort(scores, kind="stable")[:wanted]
        return np.bincount(owner[taken], minlength=len(members))

    def _rounded(self, group: int, count: int) -> int:
        n = len(self._ranked[group])
        keep = math.ceil((n - count) / self._multiple) * self._multiple
        return max(0, n - keep)


def ratio_for(cost: Callable[[float], float], budget: float, *, steps: int) -> tuple[float, float]:
    """The least ratio whose cost is within the budget, by bisection, and that cost; at ratio 1 if none is.

    ``cost`` falls as the ratio grows.
    """
    found = {1.0: cost(1.0)}
    if found[1.0] > budget:
        return 1.0, found[1.0]
    count = 2**steps

    def holds(n: int) -> bool:
        found[n / count] = cost(n / count)
        return found[n / count] <= budget

    ratio = first(0, count, holds) / count
    return ratio, found[ratio]
