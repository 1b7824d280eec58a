"""Which layer hurts: every layer quantized alone, and what it would cost to leave some in float."""

from __future__ import annotations

from dataclasses import dataclass

from fxopt.driver.time_build import built_times
from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.passes.quant.mixed.trials import Trials
from fxopt.runtime.device import cannot_time
from fxopt.target.detect import host


@dataclass(frozen=True)
class LayerSensitivity:
    """A layer by the name of its node and by the path of its module, and the SQNR of the outputs in dB with only it quantized."""

    node: str
    layer: str
    alone_db: float


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
        rows.append(LayerSensitivity(name, path.rpartition(".")[0] or path, found))
    return sorted(rows, key=lambda row: row.alone_db)


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
