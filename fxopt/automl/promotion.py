"""Which recipes go on to the next rung: the best share of those that have reached this one.

Asynchronous successive halving (Li et al. 2020, ASHA) for several objectives: ranked by whether the limits are kept, then
front by front and by crowding (Schmucker et al. 2021, MO-ASHA). A recipe is ranked once, as it arrives. There the best
third goes on, as each rung has three times the resources of the one before; here the share is the ratio of what the two
rungs cost, as a rung that costs no more than what is known already saves nothing by refusing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from fxopt.automl.goals import LEARNED, Figures, Goals
from fxopt.automl.pareto import ranks
from fxopt.automl.rungs import Rung

LEAST_SHARE = 1 / 3


def share_of(rungs: Sequence[Rung], at: int, spent: Mapping[str, Sequence[float]]) -> float | None:
    """The share of recipes that go on from the rung ``at``, which compares; None if it is not known, and all go on.

    Between two rungs that train, by their epochs; else by ``spent``, the seconds that others spent on each rung, by its name.
    """
    here, following = rungs[at], rungs[at + 1]
    if here.epochs:
        ratio = (here.epochs - rungs[at - 1].epochs) / max(following.epochs - here.epochs, 1e-9)
    else:
        mine, theirs = spent.get(here.name), spent.get(following.name)
        if not mine or not theirs:
            return None
        ratio = statistics.median(mine) / max(statistics.median(theirs), 1e-9)
    return min(max(ratio, LEAST_SHARE), 1.0)


def promoted(mine: Figures, others: Sequence[Figures], goals: Goals, original: Figures, share: float) -> bool:
    """Whether fewer than ``share`` of all figures of a rung are better than ``mine``; the first always goes on."""
    figures = [*others, mine]
    kept = [max(_known(goals, f, original).values(), default=0.0) <= 0 for f in figures]
    rivals = [i for i, k in enumerate(kept) if k == kept[-1]]
    found = ranks([_values(figures[i], goals) for i in rivals])
    # of equal ones, as the ends of a front are, none is behind another for having come later
    better = sum(rank < found[-1] for rank in found) + (0 if kept[-1] else sum(kept))
    return better < math.ceil(len(figures) * share)


def _values(figures: Figures, goals: Goals) -> tuple[float, ...]:
    """The objectives, with the divergence from the original in place of the metric, which is coarse on few examples."""
    divergence = math.log(max(figures["divergence"], 1e-12))
    values = zip(goals.objectives, goals.values({"metric_drop": 0.0, "noise_db": 0.0, **figures}), strict=True)
    return tuple(divergence if what in LEARNED else value for what, value in values)


def _known(goals: Goals, figures: Figures, original: Figures) -> dict[str, float]:
    """Violations of limits on quantities that training does not change."""
    found = goals.violations(figures, original)
    return {what: v for what, v in found.items() if what not in LEARNED}
