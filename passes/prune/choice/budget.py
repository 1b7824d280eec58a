"""The ratio that meets a budget of MACs, parameters or measured latency."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from fxopt import Context, Program
from fxopt.driver.time_build import built_times
from fxopt.errors import BudgetError
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.passes.prune.choice.chooser import Chooser, Dead, ratio_for
from fxopt.passes.prune.choice.pruned_cost import PrunedCost
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.prune.zeroing import zero

_STEPS = 24
_TIMED_STEPS = 6


@dataclass(frozen=True)
class CostBudget:
    """What may be left: ``macs`` and ``params`` as a share up to 1 or as a number, ``latency_ms`` on the target."""

    macs: float | None
    params: float | None
    latency_ms: float | None


def within(budget: CostBudget, program: Program, context: Context, sweep: Sweep, chooser: Chooser, who: str) -> Dead:
    """The atoms to remove, so that every part of the budget holds. Raises BudgetError that says how near it came."""
    plan = PrunedCost(program, sweep)
    ratio = 0.0
    for name, limit, count, dense in (
        ("macs", budget.macs, plan.macs, plan.dense.macs),
        ("params", budget.params, plan.params, plan.dense.parameters),
    ):
        if limit is not None:
            limit = limit * dense if limit <= 1 else limit
            found, reached = ratio_for(lambda r, count=count: count(chooser.dead(r)), limit, steps=_STEPS)  # type: ignore[misc]
            if reached > limit:
                raise _missed(who, name, f"{reached:,}", f"{limit:,.0f}", dense, plan, chooser)
            ratio = max(ratio, found)
    if budget.latency_ms is not None:
        found, reached = ratio_for(
            lambda r: _latency(program, context, sweep, chooser.dead(r), who), budget.latency_ms, steps=_TIMED_STEPS
        )
        if reached > budget.latency_ms:
            raise _missed(who, "latency_ms", f"{reached:.3g}", f"{budget.latency_ms:.3g}", None, plan, chooser)
        ratio = max(ratio, found)
    return chooser.dead(ratio)


def _latency(program: Program, context: Context, sweep: Sweep, dead: Dead, who: str) -> float:
    """Median milliseconds of the pruned program as the backend builds it."""
    twin = shared_copy(program)
    zero(twin, sweep, dead)
    small = Pipeline.of(shrink()).run(twin, watchers=()).program
    times = built_times({"pruned": small}, context, f"{who}: latency_ms", blocks=5)
    return times["pruned"].ms.median


def _missed(
    who: str, name: str, reached: str, limit: str, dense: int | None, plan: PrunedCost, chooser: Chooser
) -> BudgetError:
    left = plan.macs_by_node(chooser.dead(1.0))
    total = sum(left.values()) or 1
    worst = sorted(left, key=left.__getitem__, reverse=True)[:5]
    lines = [
        f"    {left[n] / total:.0%} of the MACs left: {plan.program.describe(n)}\n      {_blocks(plan.sweep, n)}"
        for n in worst
    ]
    share = f" of {dense:,}" if dense else ""
    return BudgetError(
        f"{who}: {name} comes down to {reached}{share} with all that may go gone, the budget is {limit}\n"
        + "\n".join(lines)
        + "\n  allow more: fewer names in keep, a lower min_channels, other units"
    )


def _blocks(sweep: Sweep, node: object) -> str:
    pinned = sweep.pinned
    rows = [sweep.resolve(r) for axis in sweep.of(node) for r in ax.arrays(axis)]
    causes = Counter(int(c) for r in rows for c in np.unique(pinned[r]) if c)
    if not causes:
        return "its channels may go down to the minimum"
    reason = sweep.reasons[causes.most_common(1)[0][0] - 1]
    return f"its channels stay: {reason.text} (at {reason.node.name})"
