"""Which recipes go on to the next rung: the best third of those that have reached this one.

Asynchronous successive halving (Li et al. 2020, ASHA) for several objectives: ranked by whether the limits are kept, then
front by front and by crowding (Schmucker et al. 2021, MO-ASHA). A recipe is ranked once, as it arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fxopt.automl.goals import Figures, Goals
from fxopt.automl.pareto import ranked

REDUCTION = 3


def promoted(mine: Figures, others: Sequence[Figures], goals: Goals, original: Figures) -> bool:
    """Whether ``mine`` is among the best third of all figures of a rung; the first always is."""
    figures = [*others, mine]
    kept = [max(_known(goals, f, original).values(), default=0.0) <= 0 for f in figures]
    order = [i for good in (True, False) for i in _ranked([j for j, k in enumerate(kept) if k == good], figures, goals)]
    return order.index(len(others)) < math.ceil(len(figures) / REDUCTION)


def _ranked(indices: list[int], figures: list[Figures], goals: Goals) -> list[int]:
    return [indices[i] for i in ranked([_values(figures[i], goals) for i in indices])]


def _values(figures: Figures, goals: Goals) -> tuple[float, ...]:
    """The objectives, with the divergence from the original in place of the metric, which is coarse on few examples."""
    divergence = math.log(max(figures["divergence"], 1e-12))
    values = zip(goals.objectives, goals.values({"metric_drop": 0.0, "noise_db": 0.0, **figures}), strict=True)
    return tuple(divergence if what in ("metric_drop", "noise_db") else value for what, value in values)


def _known(goals: Goals, figures: Figures, original: Figures) -> dict[str, float]:
    """Violations of limits on quantities that training does not change."""
    found = goals.violations(figures, original)
    return {what: v for what, v in found.items() if what not in ("metric_drop", "noise_db")}
