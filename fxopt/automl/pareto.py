"""Several objectives at once, each to be minimized: dominance, fronts, crowding, hypervolume."""

from __future__ import annotations

import math
from collections.abc import Sequence

Values = Sequence[float]


def dominates(a: Values, b: Values) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Values]) -> list[int]:
    """Indices of the points that no other dominates; of equal ones the first."""
    return [
        i
        for i, point in enumerate(points)
        if not any(
            dominates(other, point) or (j < i and tuple(other) == tuple(point)) for j, other in enumerate(points)
        )
    ]


def ranks(points: Sequence[Values]) -> list[tuple[int, float]]:
    """The rank of each point, least first: its front, then the least crowded (Deb et al. 2002, NSGA-II, section III)."""
    left, found, number = list(range(len(points))), [(0, 0.0)] * len(points), 0
    while left:
        inside = [left[i] for i in front([points[i] for i in left])]
        for i, distance in zip(inside, crowding([points[i] for i in inside]), strict=True):
            found[i] = number, -distance
        left, number = [i for i in left if i not in inside], number + 1
    return found


def crowding(points: Sequence[Values]) -> list[float]:
    """Crowding distance of each point: the sum over objectives of its neighbours' distance; inf at the ends."""
    distances = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: points[i][axis])
        span = points[order[-1]][axis] - points[order[0]][axis]
        distances[order[0]] = distances[order[-1]] = math.inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            distances[here] += (points[after][axis] - points[before][axis]) / span if span else 0.0
    return distances


def hypervolume(points: Sequence[Values], reference: Values) -> float:
    """Volume that the points dominate below ``reference``; by slices along the last objective (While et al. 2006, HSO)."""
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    inside = [inside[i] for i in front(inside)]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    levels = sorted({p[-1] for p in inside})
    volume = 0.0
    for level, above in zip(levels, [*levels[1:], reference[-1]], strict=True):
        volume += (above - level) * hypervolume([p[:-1] for p in inside if p[-1] <= level], reference[:-1])
    return volume
