"""Ranks by latency as the backend's build has it on the target: of each layer alone, and of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxopt.built_times import built_times
from fxopt.errors import BudgetError
from fxopt.passes.lowrank.layer_alone import layer_alone, shapes_of_one, split
from fxopt.passes.lowrank.rank_path import RankPath
from fxopt.passes.lowrank.rank_points import Alternatives, Point
from fxopt.passes.quant.mixed.judge import least
from fxopt.program import Program
from fxopt.progress import progress_bar

_BLOCKS, _LAYER_MS, _WHOLE_MS = 7, 10.0, 20.0


def with_latency(
    program: Program, every: Sequence[Alternatives], lines: Sequence[Sequence[Point]], who: str
) -> tuple[list[list[Point]], list[str | None]]:
    """The points of each weight that are faster than the whole layer, with ``ms`` set; and why there are none.

    The layer and its chains are built alone and timed side by side. A chain counts as faster if it is so in three rounds
    of four.
    """
    shape = shapes_of_one(program)
    timed: list[list[Point]] = []
    reasons: list[str | None] = []
    with progress_bar("timing layers", len(every)) as advance:
        for alternatives, points in zip(every, lines, strict=True):
            found = _timed(program, alternatives, points[1:], layer_alone(program, alternatives.weight, shape), who)
            timed.append([points[0]] if isinstance(found, str) else found)
            reasons.append(found if isinstance(found, str) else None)
            advance(1)
    return timed, reasons


def _timed(
    program: Program, alternatives: Alternatives, points: Sequence[Point], alone: Program | str, who: str
) -> list[Point] | str:
    if isinstance(alone, str):
        return alone
    if not points:
        return "no chain is smaller"
    models = {"whole": alone} | {str(i): split(alone, {"w0": point.chain}) for i, point in enumerate(points)}
    times = built_times(models, program.context, who, blocks=_BLOCKS, block_ms=_LAYER_MS)
    whole, ratios = times["whole"].ms.median, [times[str(i)].ratio(times["whole"]) for i in range(len(points))]
    pairs = list(zip(points, ratios, strict=True))
    faster = [dataclasses.replace(point, ms=whole * ratio.median) for point, ratio in pairs if ratio.high < 1]
    if faster:
        return [dataclasses.replace(alternatives.dense, ms=whole), *faster]
    point, ratio = min(pairs, key=lambda pair: pair[1].median)
    share = point.size / alternatives.dense.size
    return (
        f"split it would not be faster: at best {ratio.median:.2f} times as long as the whole layer, measured with "
        f"{program.context.backend}, {point.chain} of the {point.form} form, {share:.0%} of its size"
    )


def within_latency(
    program: Program, every: Sequence[Alternatives], path: RankPath, limit: float, who: str
) -> list[Point]:
    """The points behind the fewest moves with which the whole program takes at most ``limit`` times as long.

    Raises BudgetError where it does not with all of them.
    """
    names = [alternatives.weight.names[0] for alternatives in every]

    def ratio(count: int) -> float:
        chains = {name: point.chain for name, point in zip(names, path.after(count), strict=True)}
        models = {"whole": program, "split": split(program, chains)}
        times = built_times(models, program.context, who, blocks=_BLOCKS, block_ms=_WHOLE_MS)
        return times["split"].ratio(times["whole"]).median

    reached = ratio(len(path.moves)) if path.moves else 1.0
    if reached > limit:
        raise BudgetError(
            f"{who} comes down to {reached:.3g} of the whole with every layer as fast as its chains get, the budget is "
            f"{limit:g}\n  allow more: fewer names in keep, another form, more threads for the backend"
        )
    return path.after(least(len(path.moves), lambda count: ratio(count) <= limit))
