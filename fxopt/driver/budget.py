"""Limits that a build must keep, and whether it keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxopt.driver.report import BudgetLine, MemoryFacts
from fxopt.target import Target, not_here


@dataclass(frozen=True)
class Budget:
    """Limits that a build must keep; None is no limit. A miss is exit code 1, and the report says by how much."""

    metric_drop: float | None = None
    """Largest loss of the metric, in the metric's own unit (0.01 is one point of top-1)."""
    latency_ms: float | None = None
    """Largest median latency of one call on the target, for the example inputs."""
    file_bytes: int | None = None
    """Largest size of the compiled model."""
    macs: int | None = None
    """Largest number of multiply-accumulates, of one example where the batch is dynamic, else of the example inputs."""


def budget_lines(budget: Budget, reached: Mapping[str, float | None]) -> list[BudgetLine]:
    """Each limit with what was ``reached``, by the name of the limit, None or absent where it was not measured."""
    lines = []
    for name, limit in vars(budget).items():
        if limit is None:
            continue
        value = reached.get(name)
        met = value is not None and value <= limit + 1e-9
        if value is None:
            text = f"{name}: limit {limit:.6g}, not measured"
        else:
            text = f"{name}: {value:.6g}, limit {limit:.6g}" + ("" if met else f", over by {value - limit:.6g}")
        lines.append(BudgetLine(name=name, limit=limit, value=value, met=met, text=text))
    return lines


def device_lines(target: Target, memory: MemoryFacts, file_bytes: int) -> list[BudgetLine]:
    """The target's memory and flash against the plan and the file; none for this machine, on which it was run."""
    if target.address is None and not_here(target) is None:
        return []
    largest = "".join(f"\n    {size / 1e6:,.2f} MB: {where}" for where, size in memory.largest)
    advice = f" at {memory.at}; the largest there:{largest}"
    sides = (
        ("memory", target.memory, memory.weights + memory.values, advice),
        ("flash", target.flash, file_bytes, ": weights in fewer bits, or fewer of them, make the file smaller"),
    )
    lines = []
    for name, limit, value, advice in sides:
        if limit is not None:
            met = value <= limit
            text = f"{name} of {target.name}: {value:,} bytes, limit {limit:,}"
            text += "" if met else f", over by {value - limit:,}{advice}"
            lines.append(BudgetLine(name=name, limit=limit, value=value, met=met, text=text))
    return lines
