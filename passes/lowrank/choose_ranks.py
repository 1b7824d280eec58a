"""Ranks by a rule: for every weight alone, or for all together within a budget."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fxopt.automl.goals import Limit
from fxopt.errors import BudgetError, OptionError
from fxopt.ir.cost import cost
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.passes.common.latency_budget import share_left
from fxopt.passes.common.variant_quality import Judge
from fxopt.passes.lowrank.layer_latency import with_latency
from fxopt.passes.lowrank.measured_latency import within_latency
from fxopt.passes.lowrank.output_errors import with_output_errors, within_metric_drop
from fxopt.passes.lowrank.rank_path import RankPath
from fxopt.passes.lowrank.rank_points import Alternatives, Choices, Point
from fxopt.passes.lowrank.vbmf import vbmf_rank

By = Literal["weights", "outputs"]
"""What a budget measures the error of: squares of weights, or of the program's outputs."""

_HALF = 0.5


@dataclass(frozen=True)
class RankRule:
    """One way to choose ranks; at most one field is set, and half of each layer's size goes if none is."""

    rank: int | None = None
    ratio: float | None = None
    energy: float | None = None
    vbmf: bool = False
    macs: float | None = None
    params: float | None = None
    latency: Limit | None = None
    metric_drop: float | None = None

    @property
    def share(self) -> float:
        """The share of each layer's size that is left."""
        return 1 - (_HALF if self.ratio is None else self.ratio)

    @property
    def is_budget(self) -> bool:
        """Whether it is a limit on all weights together."""
        return {self.macs, self.params, self.latency, self.metric_drop} != {None}

    def check(self, form: str, by: By, who: str) -> None:
        """Raise OptionError for several rules at once, or one that the form or ``by`` does not take."""
        given = [name for name, value in vars(self).items() if value is not None and value is not False]
        if len(given) > 1:
            raise OptionError(f"{who}: {' and '.join(given)} each say which ranks to take; give one of them")
        if form == "cp" and {*given} - {"rank", "ratio"}:
            raise OptionError(
                f"{who}: the rank of a CP form cannot be read off singular values, so {given[0]} does not go with form='cp'; "
                "give rank or ratio"
            )
        if by == "outputs" and not self.is_budget:
            raise OptionError(f"{who}: by='outputs' compares layers, for a budget: give macs, params or latency")

    def chosen(
        self, program: Program, context: Context, every: list[Alternatives], by: By, who: str
    ) -> list[Point | str]:
        """The chain of each weight, or the reason why it stays. Raises OptionError, BudgetError and DataError."""
        if self.is_budget:
            return self._within(program, context, every, by, who)
        if self.rank is not None and every:
            most = max(c.weight.full(cut) for a in every for c in a.forms.values() for cut in c.spectra)
            if self.rank >= most:
                raise OptionError(
                    f"{who}: rank={self.rank} is not below the full rank of any weight; the largest is {most}"
                )
        return [self._alone(alternatives) for alternatives in every]

    def _alone(self, every: Alternatives) -> Point | str:
        if self.rank is not None:
            rank = self.rank
            point = every.nearest(lambda choices: choices.with_ranks(dict.fromkeys(choices.spectra, rank)))
            return point or f"with rank {rank} it would not be smaller"
        if self.energy is not None:
            lost = 1 - self.energy
            point = every.smallest(lambda choices: choices.by_loss(lost / len(choices.spectra)))
            return point or f"the ranks that keep {self.energy:g} of its energy would not make it smaller"
        if self.vbmf:
            point = every.smallest(
                lambda choices: choices.with_ranks({cut: _vbmf(choices, cut) for cut in choices.spectra})
            )
            return point or "the ranks by VBMF would not make it smaller"
        found = every.largest(self.share * every.dense.size)
        return found or f"no chain has {self.share:g} of its size, not even of rank 1"

    def _within(
        self, program: Program, context: Context, every: list[Alternatives], by: By, who: str
    ) -> list[Point | str]:
        measured = self.metric_drop is not None or by == "outputs"
        timed, option = self.latency is not None, f"{who}: latency"
        points_of = Alternatives.all if not measured else Alternatives.short if timed else Alternatives.few
        lines = [[a.dense, *points_of(a)] for a in every]
        reasons: list[str | None] = [None] * len(every)
        if timed:
            lines, reasons = with_latency(program, context, every, lines, option)
        judge = Judge(program, context.workload, who, context.device) if measured else None
        if judge is not None:
            lines = with_output_errors(program, every, lines, judge)
        if self.latency is not None:
            path = RankPath.of(lines, operator.attrgetter("ms"))
            share = share_left(self.latency, program, context, option)
            points = within_latency(program, context, every, path, share, option)
        elif self.metric_drop is not None:
            assert judge is not None
            path = RankPath.of(lines, operator.attrgetter("macs"))
            points = within_metric_drop(program, every, path, self.metric_drop, judge)
        else:
            points = self._of_size(program, every, lines, who)
        named = next(name for name in ("macs", "params", "latency", "metric_drop") if getattr(self, name) is not None)
        return [
            point if point.chain.cuts else reason or f"within the budget of {named} it may stay"
            for point, reason in zip(points, reasons, strict=True)
        ]

    def _of_size(
        self, program: Program, every: list[Alternatives], lines: Sequence[Sequence[Point]], who: str
    ) -> list[Point]:
        name, limit = ("macs", self.macs) if self.macs is not None else ("params", self.params)
        assert limit is not None
        whole = cost(program)
        dense = whole.macs if name == "macs" else whole.parameters
        limit = limit * dense if limit <= 1 else limit
        path = RankPath.of(lines, operator.attrgetter(name))
        rest = dense - path.cost(path.after(0))
        points = path.within(limit - rest)
        if points is None:
            raise _missed(who, name, limit, dense, program, every, path)
        return points


def _vbmf(choices: Choices, cut: int) -> int:
    weight = choices.weight
    rows, columns = math.prod(weight.modes[:cut]), math.prod(weight.modes[cut:])
    return max(vbmf_rank(values.sqrt().numpy(), rows, columns) for values in choices.spectra[cut])


def _missed(
    who: str, name: str, limit: float, dense: int, program: Program, every: list[Alternatives], path: RankPath
) -> BudgetError:
    points = path.after(len(path.moves))
    left = dense - path.cost(path.after(0)) + path.cost(points)
    order = sorted(range(len(every)), key=lambda i: getattr(points[i], name), reverse=True)[:5]
    lines = [f"    {getattr(points[i], name):,} left: {program.describe(every[i].weight.readers[0])}" for i in order]
    return BudgetError(
        f"{who}: {name} comes down to {left:,} of {dense:,} with every rank as low as it goes, the budget is {limit:,.0f}\n"
        + "\n".join(lines)
        + "\n  allow more: fewer names in keep, another form, a smaller multiple"
    )
