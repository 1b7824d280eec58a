"""Which layer hurts: every layer quantized alone, and what it would cost to leave the worst ones in float."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fxopt.driver.time_build import built_times
from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name, source_line
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.passes.quant.mixed.trials import Trials
from fxopt.runtime.device import cannot_time
from fxopt.target.detect import host


@dataclass(frozen=True)
class LayerSensitivity:
    """A layer: the SQNR of the outputs in dB with only this one quantized, and with all but this one quantized.

    ``slower`` is the latency with this layer left in float over that with all quantized, None where it was not measured.
    """

    node: str
    layer: str
    op: str
    source: str
    alone_db: float
    without_db: float | None = None
    slower: float | None = None


def alone(trials: Trials) -> list[LayerSensitivity]:
    """Every layer quantized on its own, the worst first."""
    every = frozenset(trials.layers)
    nodes = {node.name: node for node in trials.program.graph.nodes}
    rows = []
    for name in trials.layers:
        node = nodes[name]
        weight = arguments(node).get("weight")
        path = name if weight is None else str(weight.target)
        found = trials.sqnr(trials.quantized(every - {name}))
        rows.append(LayerSensitivity(name, path.rpartition(".")[0] or path, op_name(node), source_line(node), found))
    return sorted(rows, key=lambda row: row.alone_db)


def left_in_float(trials: Trials, rows: Sequence[LayerSensitivity], worst: int) -> list[LayerSensitivity]:
    """The rows, the first ``worst`` with the dB and latency of leaving that one layer in float."""
    chosen = [row.node for row in rows[:worst]]
    models = {name: trials.quantized(frozenset([name])) for name in chosen}
    gains = {name: trials.sqnr(model) for name, model in models.items()}
    slower = slowdowns(trials, {frozenset([name]): model for name, model in models.items()})
    return [
        dataclasses.replace(row, without_db=gains[row.node], slower=slower.get(frozenset([row.node])))
        if row.node in gains
        else row
        for row in rows
    ]


def slowdowns(trials: Trials, models: dict[frozenset[str], Program]) -> dict[frozenset[str], float]:
    """Latency of trials over that with all layers quantized, as the backend builds them, timed side by side.

    Empty where no backend is given, or nothing can be timed for the target.
    """
    context = trials.context
    target = context.target or host()
    if context.backend is None or cannot_time(target):
        return {}
    programs = {"": trials.quantized(frozenset()), **{str(sorted(left)): model for left, model in models.items()}}
    for program in programs.values():
        derive_shapes(program)
    times = built_times(programs, context, "a layer's latency")
    return {left: times[str(sorted(left))].ratio(times[""]).median for left in models}


@dataclass(frozen=True)
class SensitivityTable:
    """All layers, the worst first, and the whole quantized model."""

    rows: tuple[LayerSensitivity, ...]
    all_db: float
    stays: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Lines for a console."""
        lines = [
            f"all {len(self.rows)} layers quantized: {_decibels(self.all_db)} dB at the outputs; each alone, worst first:"
        ]
        lines += ["", f"{'alone':>7} {'without':>8} {'slower':>7}  layer"]
        for row in self.rows:
            without = "" if row.without_db is None else _decibels(row.without_db)
            slower = "" if row.slower is None else f"{row.slower - 1:+.1%}"
            lines.append(f"{_decibels(row.alone_db):>7} {without:>8} {slower:>7}  {row.layer} ({row.op})  {row.source}")
        lines += ["", "without: dB of the model if this one layer stays in float; slower: what that costs in latency"]
        lines += ["", "these stay in float:" if self.stays else "no other layer stays in float"]
        return "\n".join([*lines, *(f"    {line}" for line in self.stays)])


def _decibels(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else str(value)
