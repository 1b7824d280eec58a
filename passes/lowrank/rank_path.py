"""From whole layers to the lowest ranks, step by step, in the order of loss per saving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fxopt.passes.lowrank.rank_points import Point

Expense = Callable[[Point], float]


@dataclass(frozen=True)
class RankPath:
    """For each weight its points, from the whole layer to the cheapest; and ``(weight, point)`` of each move in order.

    The points of a weight, the loss over the cost, have a lower convex hull; its edges from all weights are the moves, by
    slope, the flattest first. After each move that is the least total loss for what it costs (Everett 1963).
    """

    lines: list[list[Point]]
    moves: list[tuple[int, int]]
    expense: Expense

    @classmethod
    def of(cls, points: Sequence[Sequence[Point]], expense: Expense) -> RankPath:
        """The path through points of which the first is the whole layer; dominated ones are left out."""
        lines = [_undominated(some, expense) for some in points]
        edges = [(slope, i, j) for i, line in enumerate(lines) for slope, j in _hull(line, expense)]
        return cls(lines, [(i, j) for _, i, j in sorted(edges)], expense)

    def after(self, count: int) -> list[Point]:
        """The point of each weight after the first ``count`` moves."""
        at = [0] * len(self.lines)
        for i, j in self.moves[:count]:
            at[i] = j
        return [line[k] for line, k in zip(self.lines, at, strict=True)]

    def within(self, most: float) -> list[Point] | None:
        """The points after the fewest moves whose cost is ``most`` in all; the last move goes as far as it takes."""
        for count in range(len(self.moves) + 1):
            points = self.after(count)
            if self.cost(points) <= most:
                if count:
                    i, j = self.moves[count - 1]
                    rest = self.cost(points) - self.expense(points[i])
                    start = self.lines[i].index(self.after(count - 1)[i])
                    points[i] = next(p for p in self.lines[i][start + 1 : j + 1] if rest + self.expense(p) <= most)
                return points
        return None

    def cost(self, points: Sequence[Point]) -> float:
        """The cost of all weights together."""
        return sum(map(self.expense, points))


def _undominated(points: Sequence[Point], expense: Expense) -> list[Point]:
    """Points from the dearest, the whole layer, to the cheapest, without those that lose no less than a cheaper one."""
    kept: list[Point] = []
    for point in sorted(points[1:], key=lambda p: (expense(p), p.error)):
        if expense(point) < expense(points[0]) and (not kept or point.error < kept[-1].error):
            kept.append(point)
    return [points[0], *reversed(kept)]


def _hull(points: list[Point], expense: Expense) -> list[tuple[float, int]]:
    """The slope of each edge of the lower convex hull of loss over cost, and the point that it leads to."""
    corner, found = 0, []
    while corner < len(points) - 1:
        here = points[corner]
        slopes = [(p.error - here.error) / (expense(here) - expense(p)) for p in points[corner + 1 :]]
        corner += 1 + min(range(len(slopes)), key=lambda k: (slopes[k], -k))
        found.append((min(slopes), corner))
    return found
