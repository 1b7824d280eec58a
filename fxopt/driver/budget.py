"""Limits that a build must keep, and whether its report keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fxopt.target import Target
from fxopt.target.detect import not_here


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
    """Largest number of multiply-accumulates for the example inputs."""


def device_lines(target: Target, report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the target has room for, beside what is planned and built, as :func:`budget_lines` has it; nothing for no limit.

    Nothing either for this machine, where it was run.
    """
    if target.address is None and not_here(target) is None:
        return []
    memory, flash = report["memory"], report["after"]["file_bytes"]
    largest = "".join(f"\n    {size / 1e6:,.2f} MB: {where}" for where, size in memory["largest"])
    sides = (
        (
            "memory",
            target.memory,
            memory["weights"] + memory["values"],
            f" at {memory['at']}; the largest there:{largest}",
        ),
        ("flash", target.flash, flash, ": weights in fewer bits, or fewer of them, make the file smaller"),
    )
    lines = []
    for name, limit, value, advice in sides:
        if limit is not None:
            text = f"{name} of {target.name}: {value:,} bytes, limit {limit:,}"
            met = value <= limit
            text += "" if met else f", over by {value - limit:,}{advice}"
            lines.append({"name": name, "limit": limit, "value": value, "met": met, "text": text})
    return lines


def budget_lines(budget: Budget, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each limit with what was reached, whether it is met, and a sentence."""
    before, after = report["before"], report["after"]
    latency = after.get("latency", {}).get("median_ms")
    drop = before["metric"] - after["metric"] if "metric" in after else None
    reached = {"metric_drop": drop, "latency_ms": latency, "file_bytes": after["file_bytes"], "macs": after["macs"]}
    lines = []
    for name, value in reached.items():
        limit = getattr(budget, name)
        if limit is None:
            continue
        met = value is not None and value <= limit + 1e-9
        if value is None:
            text = f"{name}: limit {limit:.6g}, not measured"
        else:
            text = f"{name}: {value:.6g}, limit {limit:.6g}" + ("" if met else f", over by {value - limit:.6g}")
        lines.append({"name": name, "limit": limit, "value": value, "met": met, "text": text})
    return lines
