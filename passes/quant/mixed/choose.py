"""Which layers stay in float, so that a budget of quantization holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from fxopt.errors import UsageError
from fxopt.passes.common.bisection import first
from fxopt.passes.quant.mixed.sensitivity import LayerSensitivity, alone, slowdowns
from fxopt.passes.quant.mixed.trials import Trials

Leave = Literal["greedy", "knapsack"]

_WORST = 16
_TIGHTENED = 12


@dataclass(frozen=True)
class QuantBudget:
    """What quantization may cost: ``metric_drop`` on the validation split, ``sqnr_db`` at the least; None is no limit."""

    metric_drop: float | None
    sqnr_db: float | None


def left_in_float(budget: QuantBudget, trials: Trials, how: Leave, who: str) -> frozenset[str]:
    """Layers (by the names of their nodes) to leave in float so that the budget holds; none if it holds anyway.

    ``greedy``: as few of the worst layers as needed. ``knapsack``: those with the least measured latency for the noise that
    they remove; see :func:`cheapest`. With all layers in float any budget holds.
    """
    holds = _judge(budget, trials)
    if holds(frozenset()):
        return frozenset()
    rows = alone(trials)
    if how == "greedy":
        return _fewest(rows, holds)
    return cheapest(rows, trials, holds, who)


def _judge(budget: QuantBudget, trials: Trials) -> Callable[[frozenset[str]], bool]:
    dense = trials.metric(trials.program) if budget.metric_drop is not None else 0.0

    def holds(left: frozenset[str]) -> bool:
        model = trials.quantized(left)
        if budget.sqnr_db is not None and trials.sqnr(model) < budget.sqnr_db:
            return False
        return budget.metric_drop is None or dense - trials.metric(model) <= budget.metric_drop + 1e-12

    return holds


def _fewest(rows: Sequence[LayerSensitivity], holds: Callable[[frozenset[str]], bool]) -> frozenset[str]:
    """As few of the worst layers as the budget needs, by bisection."""
    names = [row.node for row in rows]
    count = first(-1, len(names), lambda n: n > 0 and holds(frozenset(names[:n])))
    return frozenset(names[:count])


def cheapest(
    rows: Sequence[LayerSensitivity], trials: Trials, holds: Callable[[frozenset[str]], bool], who: str
) -> frozenset[str]:
    """Of the 16 worst layers those to leave in float at the least total latency.

    The noise of layers adds up: layer i alone makes n_i = 10^(-dB_i / 10) of the signal, and the sum of the others must be
    at most some N. With c_i the measured latency of leaving i in float, it is a knapsack: minimise Σ c_i x_i subject to
    Σ n_i (1 - x_i) ≤ N, which is solved exactly. N is tightened until the budget holds on the validation data; where the 16
    are not enough, as many of the worst are left as needed. Raises UsageError where latency cannot be measured.
    """
    worst = rows[:_WORST]
    costs = slowdowns(trials, {frozenset([r.node]): trials.quantized(frozenset([r.node])) for r in worst})
    if not costs:
        raise UsageError(
            f"{who}: a knapsack needs measured latency; run the pipeline with a backend on this machine, or -b"
        )
    cost = np.array([max(costs[frozenset([row.node])] - 1, 0.0) + 1e-6 for row in worst])
    noise = np.array([10 ** (-row.alone_db / 10) for row in worst])
    allowed = noise.sum()
    for _ in range(_TIGHTENED):
        allowed /= 2
        if allowed < noise.min():
            break
        solved = milp(
            cost,
            constraints=LinearConstraint(noise[None], lb=noise.sum() - allowed),
            integrality=np.ones(len(worst)),
            bounds=Bounds(0, 1),
        )
        left = frozenset(row.node for row, x in zip(worst, solved.x, strict=True) if x > 0.5)
        if holds(left):
            return left
    return _fewest(rows, holds)
