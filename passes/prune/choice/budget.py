"""The ratio that meets a budget of MACs, parameters or measured latency."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from fxopt import Context, Program
from fxopt.automl.goals import Limit
from fxopt.errors import BudgetError
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.passes.common.latency_budget import fewest_steps, share_left
from fxopt.passes.prune.choice.chooser import Chooser, Dead, ratio_for
from fxopt.passes.prune.choice.pruned_cost import PrunedCost
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.prune.zeroing import zero

_STEPS = 24
_TIMED_STEPS = 64
"""Ratios that are told apart by their latency, six timings of a bisection."""


@dataclass(frozen=True)
class CostBudget:
    """What may be left: ``macs`` and ``params`` as a share up to 1 or as a number, and a limit of ``latency`` on the target."""

    macs: float | None
    params: float | None
    latency: Limit | None


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
    if budget.latency is not None:
        share = share_left(budget.latency, program, context, f"{who}: latency")
        steps, least = fewest_steps(
            program,
            context,
            share,
            _TIMED_STEPS,
            lambda steps: _pruned(program, sweep, chooser.dead(steps / _TIMED_STEPS)),
            f"{who}: latency",
        )
        if least > share:
            raise _missed(who, "latency", f"{least:.3g}", f"{share:.3g}", None, plan, chooser)
        ratio = max(ratio, steps / _TIMED_STEPS)
    return chooser.dead(ratio)


def _pruned(program: Program, sweep: Sweep, dead: Dead) -> Program:
    """What is left of a program without these atoms."""
    twin = shared_copy(program)
    zero(twin, sweep, dead)
    return Pipeline.of(shrink()).run(twin, watchers=()).program


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
    of = f" of {dense:,}" if dense else " of the whole"
    return BudgetError(
        f"{who}: {name} comes down to {reached}{of} with all that may go gone, the budget is {limit}\n"
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
