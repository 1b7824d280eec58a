"""Ranks by the latency of the whole program, as built by the backend and run on the target."""

from __future__ import annotations

from collections.abc import Sequence

from fxopt.driver.time_build import built_times
from fxopt.errors import BudgetError
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.passes.common.bisection import first
from fxopt.passes.lowrank.layer_alone import split
from fxopt.passes.lowrank.rank_path import RankPath
from fxopt.passes.lowrank.rank_points import Alternatives, Point

_BLOCKS, _BLOCK_MS = 15, 5.0  # short blocks are seldom interrupted by whatever else runs
_SURE = 2
"""How many times as many blocks the final choice is timed with: a search prefers the luckiest of its timings."""


def within_latency(
    program: Program, context: Context, every: Sequence[Alternatives], path: RankPath, limit: float, who: str
) -> list[Point]:
    """The points after the fewest moves that bring the whole program's latency down to ``limit`` times the original.

    Raises BudgetError where all of them do not.
    """
    names = [alternatives.weight.names[0] for alternatives in every]

    def ratio(count: int, blocks: int = _BLOCKS) -> float:
        chains = {name: point.chain for name, point in zip(names, path.after(count), strict=True)}
        models = {"whole": program, "split": split(program, chains)}
        times = built_times(models, context, who, blocks=blocks, block_ms=_BLOCK_MS)
        return times["split"].ratio(times["whole"]).median

    moves = len(path.moves)
    reached = ratio(moves) if moves else 1.0
    if reached <= limit:
        count = first(-1, moves, lambda count: ratio(count) <= limit)
        while (reached := ratio(count, _SURE * _BLOCKS)) > limit and count < moves:
            count = min(moves, count + max(1, moves // 20))
    if reached > limit:
        raise BudgetError(
            f"{who} comes down to {reached:.3g} of the whole with every layer as fast as its chains get, the "
            f"budget is {limit:g}",
            way_out="allow more: fewer names in keep, another form, more threads for the backend",
        )
    return path.after(count)
