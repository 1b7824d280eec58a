"""Ranks by their effect on the outputs of the whole program: the noise of each layer alone, and the metric of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.common.bisection import first
from fxopt.passes.common.variant_quality import Judge
from fxopt.passes.lowrank.approximate import approximate
from fxopt.passes.lowrank.rank_path import RankPath
from fxopt.passes.lowrank.rank_points import Alternatives, Point
from fxopt.support.progress import progress_bar


def with_output_errors(
    program: Program, every: Sequence[Alternatives], lines: Sequence[Sequence[Point]], judge: Judge
) -> list[list[Point]]:
    """The points with the noise over signal of the program's outputs as their error, with this layer alone of low rank.

    The noise of several layers nearly adds up, so these errors compare across layers; errors of weights do not.
    """
    twin, found = shared_copy(program), []
    with progress_bar("measuring layers", sum(map(len, lines))) as advance:
        for alternatives, points in zip(every, lines, strict=True):
            name = alternatives.weight.names[0]
            whole, measured = twin.tensors()[name].detach(), [points[0]]
            for point in points[1:]:
                approximate(twin, alternatives.forms[point.form], point.chain)
                measured.append(dataclasses.replace(point, error=10 ** (-judge.sqnr(twin) / 10)))
                advance(1)
            twin.set_tensor(name, whole)
            found.append(measured)
    return found


def within_metric_drop(
    program: Program, every: Sequence[Alternatives], path: RankPath, drop: float, judge: Judge
) -> list[Point]:
    """The points after the most moves with which the metric on the validation split falls by no more than ``drop``."""
    dense, twin = judge.metric(program), shared_copy(program)

    def holds(undone: int) -> bool:
        for alternatives, point in zip(every, path.after(len(path.moves) - undone), strict=True):
            weight = alternatives.weight
            if point.chain.cuts:
                approximate(twin, alternatives.forms[point.form], point.chain)
            else:
                twin.set_tensor(weight.names[0], weight.tensor.detach())
        return dense - judge.metric(twin) <= drop + 1e-12

    return path.after(len(path.moves) - first(-1, len(path.moves), holds))
