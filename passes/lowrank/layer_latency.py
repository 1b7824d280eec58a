"""Latency of the chains of each layer on the target: few of them are timed, the others are interpolated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from fxopt.driver.time_build import built_times
from fxopt.ir.program import Program
from fxopt.ir.structural_equal import canonical_text
from fxopt.pass_manager.context import Context
from fxopt.passes.lowrank.layer_alone import layer_alone, shapes_of_one, split
from fxopt.passes.lowrank.rank_points import Alternatives, Form, Point
from fxopt.support.progress import progress_bar

_SIZES = (0.5, 0.15)
"""Of each form, the sizes relative to the layer's at which a chain is timed."""
_BLOCKS, _BLOCK_MS = 15, 3.0  # short blocks are seldom interrupted by whatever else runs
_CLEARLY = 0.97
"""A gain below this is taken for measurement noise."""


@dataclass(frozen=True)
class Line:
    """Milliseconds of the chains of one form, by size: a constant for the additional layers, and a cost per MAC."""

    base: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> Line:
        """The line through two points ``(size, ms)``; constant, at their mean, for a single point or one that falls."""
        (low, fast), (high, slow) = min(points), max(points)
        slope = max(0.0, (slow - fast) / (high - low)) if high > low else 0.0
        return cls(sum(ms - slope * size for size, ms in points) / len(points), slope)

    def ms(self, size: int) -> float:
        """Milliseconds of a chain of this size."""
        return self.base + self.slope * size


@dataclass(frozen=True)
class Times:
    """A layer's milliseconds, the line of each form, and the best chain that was timed with its share of the layer's time."""

    whole: float
    lines: dict[Form, Line]
    best: tuple[Point, float]


def with_latency(
    program: Program, context: Context, every: Sequence[Alternatives], lines: Sequence[Sequence[Point]], who: str
) -> tuple[list[list[Point]], list[str | None]]:
    """The points of each weight that are faster than the whole layer, with ``ms`` set; and why there are none.

    The layer is built alone, whole and as two chains of each form, and they are timed side by side. Layers with the same op
    and shapes are timed once.
    """
    shape = shapes_of_one(program)
    found: list[list[Point]] = []
    reasons: list[str | None] = []
    known: dict[str, Times | str] = {}
    with progress_bar("timing layers", len(every)) as advance:
        for alternatives, points in zip(every, lines, strict=True):
            alone = layer_alone(program, alternatives.weight, shape)
            key = alone if isinstance(alone, str) else canonical_text(alone)
            if key not in known:
                known[key] = alone if isinstance(alone, str) else _timed(context, alternatives, alone, who)
            times = known[key]
            faster = [] if isinstance(times, str) else _faster(points, times)
            found.append(faster or [points[0]])
            reasons.append(None if faster else times if isinstance(times, str) else _reason(context, points[0], times))
            advance(1)
    return found, reasons


def _timed(context: Context, alternatives: Alternatives, alone: Program, who: str) -> Times | str:
    """Time a layer; a reason where no chain is smaller."""
    size = alternatives.dense.size
    chosen = {
        str(i): point
        for i, (choices, share) in enumerate((c, s) for c in alternatives.forms.values() for s in _SIZES)
        if (point := choices.largest(share * size)) is not None
    }
    if not chosen:
        return "no chain is much smaller"
    models = {"whole": alone} | {name: split(alone, {"w0": point.chain}) for name, point in chosen.items()}
    times = built_times(models, context, who, blocks=_BLOCKS, block_ms=_BLOCK_MS)
    whole = times["whole"].ms.median
    shares = {name: times[name].ratio(times["whole"]).median for name in chosen}
    by_form: dict[Form, list[tuple[int, float]]] = {}
    for name, point in chosen.items():
        by_form.setdefault(point.form, []).append((point.size, whole * shares[name]))
    best = min(chosen, key=shares.__getitem__)
    return Times(whole, {form: Line.through(some) for form, some in by_form.items()}, (chosen[best], shares[best]))


def _faster(points: Sequence[Point], times: Times) -> list[Point]:
    """The whole layer, and the points that are clearly faster; empty if there are none."""
    priced = [
        dataclasses.replace(point, ms=line.ms(point.size))
        for point in points[1:]
        if (line := times.lines.get(point.form)) is not None
    ]
    faster = [point for point in priced if point.ms < _CLEARLY * times.whole]
    return [dataclasses.replace(points[0], ms=times.whole), *faster] if faster else []


def _reason(context: Context, dense: Point, times: Times) -> str:
    point, share = times.best
    return (
        f"split it would not be clearly faster: at best {share:.2f} times as long as the whole layer, measured with "
        f"{context.backend}, {point.chain} of the {point.form} form, {point.size / dense.size:.0%} of its size"
    )
