"""Ranks by the latency of the whole program, as built by the backend and run on the target."""

from __future__ import annotations

from collections.abc import Sequence

from fxopt.errors import BudgetError
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.passes.common.latency_budget import fewest_steps
from fxopt.passes.lowrank.layer_alone import split
from fxopt.passes.lowrank.rank_path import RankPath
from fxopt.passes.lowrank.rank_points import Alternatives, Point


def within_latency(
    program: Program, context: Context, every: Sequence[Alternatives], path: RankPath, share: float, who: str
) -> list[Point]:
    """The points after the fewest moves that bring the whole program's latency down to a ``share`` of the original.

    Raises BudgetError where all of them do not.
    """
    names = [alternatives.weight.names[0] for alternatives in every]

    def after(count: int) -> Program:
        return split(program, {n: point.chain for n, point in zip(names, path.after(count), strict=True)})

    count, reached = fewest_steps(program, context, share, len(path.moves), after, who)
    if reached > share:
        raise BudgetError(
            f"{who} comes down to {reached:.3g} of the whole with every layer as fast as its chains get, the "
            f"budget is {share:.3g}",
            way_out="allow more: fewer names in keep, another form, more threads for the backend",
        )
    return path.after(count)
