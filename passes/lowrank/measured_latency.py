"""Ranks by latency as the backend's build has it on the target: of each layer alone, and of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxopt.built_times import built_times
from fxopt.errors import BudgetError
from fxopt.measure import Quartiles
from fxopt.passes.lowrank.chain import Chain
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
    known: dict[tuple[str, Chain], tuple[float, Quartiles]] = {}
    with progress_bar("timing layers", len(every)) as advance:
        for alternatives, points in zip(every, lines, strict=True):
            alone = layer_alone(program, alternatives.weight, shape)
            found = alone if isinstance(alone, str) else _faster(program, points, alone, known, who)
            timed.append([points[0]] if isinstance(found, str) else found)
            reasons.append(found if isinstance(found, str) else None)
            advance(1)
    return timed, reasons


def _faster(
    program: Program,
    points: Sequence[Point],
    alone: Program,
    known: dict[tuple[str, Chain], tuple[float, Quartiles]],
    who: str,
) -> list[Point] | str:
    """The whole layer and the points that are faster; or the reason why none is."""
    if not points[1:]:
        return "no chain is smaller"
    text = alone.text()
    _time(program, alone, [point.chain for point in points[1:] if (text, point.chain) not in known], known, who)
    pairs = [(point, known[text, point.chain]) for point in points[1:]]
    faster = [dataclasses.replace(point, ms=ms * ratio.median) for point, (ms, ratio) in pairs if ratio.high < 1]
    if faster:
        return [dataclasses.replace(points[0], ms=pairs[0][1][0]), *faster]
    point, (_, ratio) = min(pairs, key=lambda pair: pair[1][1].median)
    share = point.size / points[0].size
    return (
        f"split it would not be faster: at best {ratio.median:.2f} times as long as the whole layer, measured with "
        f"{program.context.backend}, {point.chain} of the {point.form} form, {share:.0%} of its size"
    )


def _time(
    program: Program,
    alone: Program,
    chains: Sequence[Chain],
    known: dict[tuple[str, Chain], tuple[float, Quartiles]],
    who: str,
) -> None:
    """Note the milliseconds of the whole layer, and each chain's ratio to it; layers that are alike are timed once."""
    if not chains:
        return
    models = {"whole": alone} | {str(i): split(alone, {"w0": chain}) for i, chain in enumerate(chains)}
    times = built_times(models, program.context, who, blocks=_BLOCKS, block_ms=_LAYER_MS)
    for i, chain in enumerate(chains):
        known[alone.text(), chain] = times["whole"].ms.median, times[str(i)].ratio(times["whole"])


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
