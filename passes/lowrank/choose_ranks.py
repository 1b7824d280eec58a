"""Ranks by a rule: for every weight alone, or for all together within a budget."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

from fxopt.cost import cost
from fxopt.errors import BudgetError, OptionError
from fxopt.passes.lowrank.rank_points import Choices, Form, Point
from fxopt.passes.lowrank.vbmf import vbmf_rank
from fxopt.program import Program

Expense = Callable[[Point], int]

_HALF = 0.5


@dataclass(frozen=True)
class Rule:
    """One way to choose ranks; at most one field is set, and half of each layer's size goes if none is."""

    rank: int | None
    ratio: float | None
    energy: float | None
    vbmf: bool
    macs: float | None
    params: float | None

    @property
    def share(self) -> float:
        """The share of each layer's size that is left."""
        return 1 - (_HALF if self.ratio is None else self.ratio)

    def check(self, form: Form, who: str) -> None:
        """Raise OptionError for several rules at once, or one that the form does not take."""
        given = [name for name, value in vars(self).items() if value not in (None, False)]
        if len(given) > 1:
            raise OptionError(f"{who}: {' and '.join(given)} each say which ranks to take; give one of them")
        if form == "cp" and {*given} - {"rank", "ratio"}:
            raise OptionError(
                f"{who}: the rank of a CP form cannot be read off singular values, so {given[0]} does not go with form='cp'; "
                "give rank or ratio"
            )

    def chosen(self, program: Program, every: list[Choices], who: str) -> list[Point | str]:
        """The chain of each weight, or the reason why it stays. Raises OptionError and BudgetError."""
        if self.macs is not None or self.params is not None:
            return _within(self, program, every, who)
        if self.rank is not None and every:
            most = max(choices.weight.full(cut) for choices in every for cut in choices.spectra)
            if self.rank >= most:
                raise OptionError(
                    f"{who}: rank={self.rank} is not below the full rank of any weight; the largest is {most}"
                )
        return [self._alone(choices) for choices in every]

    def _alone(self, choices: Choices) -> Point | str:
        if self.rank is not None:
            point = choices.with_ranks(dict.fromkeys(choices.spectra, self.rank))
            return point or f"with rank {self.rank} it would not be smaller"
        if self.energy is not None:
            point = choices.by_loss((1 - self.energy) / len(choices.spectra))
            return point or f"the ranks that keep {self.energy:g} of its energy would not make it smaller"
        if self.vbmf:
            point = choices.with_ranks({cut: _vbmf(choices, cut) for cut in choices.spectra})
            return point or "the ranks by VBMF would not make it smaller"
        found = choices.largest(self.share * choices.dense.size)
        return found or f"no chain has {self.share:g} of its size, not even of rank 1"


def _vbmf(choices: Choices, cut: int) -> int:
    weight = choices.weight
    rows, columns = math.prod(weight.modes[:cut]), math.prod(weight.modes[cut:])
    return max(vbmf_rank(values.sqrt().numpy(), rows, columns) for values in choices.spectra[cut])


def _within(rule: Rule, program: Program, every: list[Choices], who: str) -> list[Point | str]:
    """Chains that meet the budget, singular values gone in the order of what they lose for what they save.

    The points of each weight, the loss relative to its squares over the cost, have a lower convex hull; its edges from all
    weights are taken by slope, the flattest first, until the budget holds. At each corner that is the least total loss for
    what it costs (Everett 1963); the last edge is gone only as far as it takes.
    """
    name, limit = ("macs", rule.macs) if rule.macs is not None else ("params", rule.params)
    assert limit is not None
    whole = cost(program)
    dense = whole.macs if name == "macs" else whole.parameters
    limit = limit * dense if limit <= 1 else limit
    expense: Expense = operator.attrgetter(name)
    points = [_falling([choices.dense, *choices.all()], expense) for choices in every]
    at = [0] * len(every)
    edges = [(slope, i, j) for i, line in enumerate(points) for slope, j in _hull(line, expense)]
    left = dense
    for _, i, j in sorted(edges):
        if left <= limit:
            break
        before = left - expense(points[i][at[i]])
        reach = next((k for k in range(at[i] + 1, j) if before + expense(points[i][k]) <= limit), j)
        left, at[i] = before + expense(points[i][reach]), reach
    if left > limit:
        raise _missed(who, name, left, limit, dense, program, every, points)
    return [line[k] if k else f"within the budget of {name} it may stay" for line, k in zip(points, at, strict=True)]


def _falling(points: list[Point], expense: Expense) -> list[Point]:
    """The points that are cheaper than all before."""
    kept = points[:1]
    for point in points[1:]:
        if expense(point) < expense(kept[-1]):
            kept.append(point)
    return kept


def _hull(points: list[Point], expense: Expense) -> list[tuple[float, int]]:
    """The slope of each edge of the lower convex hull of loss over cost, and the point that it leads to."""
    corner, found = 0, []
    while corner < len(points) - 1:
        here = points[corner]
        slopes = [(p.error - here.error) / (expense(here) - expense(p)) for p in points[corner + 1 :]]
        corner += 1 + min(range(len(slopes)), key=lambda k: (slopes[k], -k))
        found.append((min(slopes), corner))
    return found


def _missed(
    who: str,
    name: str,
    left: int,
    limit: float,
    dense: int,
    program: Program,
    every: list[Choices],
    points: list[list[Point]],
) -> BudgetError:
    order = sorted(range(len(every)), key=lambda i: getattr(points[i][-1], name), reverse=True)[:5]
    lines = [
        f"    {getattr(points[i][-1], name):,} left: {program.describe(every[i].weight.readers[0])}" for i in order
    ]
    return BudgetError(
        f"{who}: {name} comes down to {left:,} of {dense:,} with every rank as low as it goes, the budget is {limit:,.0f}\n"
        + "\n".join(lines)
        + "\n  allow more: fewer names in keep, another form, a smaller multiple"
    )
