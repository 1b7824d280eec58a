"""What a report and a manifest hold, as plain values: the interface, costs, what each step did."""

from __future__ import annotations

import math
from typing import Any

from fxopt.ir.cost import Cost
from fxopt.pass_manager.step import StepResult


def cost_dict(cost: Cost) -> dict[str, Any]:
    """MACs, parameters and bytes of weights."""
    values: dict[str, Any] = {"macs": cost.macs, "parameters": cost.parameters, "weight_bytes": cost.bytes}
    return values | ({"ops_not_counted": list(cost.unknown)} if cost.unknown else {})


def step_dict(step: StepResult) -> dict[str, Any]:
    """A step's result as plain values; infinite figures as the text ``inf``."""
    return {
        "pass": step.text,
        "kind": step.kind,
        "part_of": step.part_of,
        "changed": step.changed,
        "skips": [{"node": s.node, "source": s.source, "reason": s.reason} for s in step.skips],
        "choices": [{"what": c.what, "value": plain(c.value), "why": c.why} for c in step.choices],
        "delta": cost_dict(step.delta) if step.delta else None,
        "seconds": round(step.seconds, 3),
        **{key: plain(value) for key, value in step.findings.items()},
    }


def plain(value: Any) -> Any:
    """A number as JSON can hold it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
