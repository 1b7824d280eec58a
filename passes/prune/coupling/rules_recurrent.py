"""Recurrent layers as single ops: a hidden unit goes with its rows in all gates, in all layers and both directions."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxopt.ir.recurrent import Cell, Recurrent, recurrent
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.rules_contraction import contract
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.coupling.table import rule


@rule("family:recurrent")
def units(sweep: Sweep, node: fx.Node) -> Any:
    """What each layer reads is summed over, its own state among it: a unit that only itself reads is not needed.

    The states of all layers and directions are one tensor, so that the units of the same number go together. Where the
    state is a projection of the units, the projection can become narrower and the units stay.
    """
    layer = recurrent(node)
    x = sweep.of(layer.input)
    states = [sweep.of(state) for state in layer.states]
    sweep.pin([*x[:-1], *(axis for state in states for axis in state[:-1])], node, "steps and states stay in order")
    width, hidden = states[0][-1], states[-1][-1]
    if layer.projects:
        rows = [sweep.of(cell.weight_ih)[0] for cell in layer.cells]
        sweep.pin([hidden, *rows], node, "torch knows a projection by its width, which is not that of the units")
    for cell in layer.cells:
        width, hidden = _tie(sweep, node, layer, cell, width, hidden)
    result = width
    for i, cells in enumerate(layer.layers):
        read = x[-1] if i == 0 else result
        for cell in cells:
            read = sweep.unite(read, sweep.of(cell.weight_ih)[1], node)
            contract(sweep, node, read, *([(layer.input, -1)] if i == 0 else []), (cell.weight_ih, 1))
        result = ax.merged((len(cells),), width)
    last = [[*state[:-1], axis] for state, axis in zip(states, (width, hidden), strict=False)]
    if layer.sequence:
        return [[*x[:-1], result], *last]
    return last if layer.kind == "lstm" else last[0]


def _tie(sweep: Sweep, node: fx.Node, layer: Recurrent, cell: Cell, width: Axis, hidden: Axis) -> tuple[Axis, Axis]:
    """Unite the rows of a cell's gates with its units, and what it sums over with its state."""
    if cell.weight_hr is None:
        hidden = width = sweep.unite(width, hidden, node)
    for packed in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh):
        if packed is not None:
            rows = sweep.of(packed)[0]
            reason = sweep.because(node, "its gates are packed in another way elsewhere")
            gates, unit = ax.reshape(sweep.atoms, [rows], [layer.gates, ax.length(rows) // layer.gates], reason)
            sweep.pin([gates], node, "every unit has all gates")
            hidden = sweep.unite(hidden, unit, node)
    if cell.weight_hr is None:
        width = hidden
    else:
        projection = sweep.of(cell.weight_hr)
        width = sweep.unite(width, projection[0], node)
        hidden = sweep.unite(hidden, projection[1], node)
        contract(sweep, node, hidden, (cell.weight_hr, 1))
    width = sweep.unite(width, sweep.of(cell.weight_hh)[1], node)
    contract(sweep, node, width, (cell.weight_hh, 1))
    return width, hidden
