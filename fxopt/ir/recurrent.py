"""Recurrent layers, read from their packed arguments: LSTM, GRU and RNN, whole sequences and single steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fxopt.ir.op_traits import Shape

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""By kind, how many gates are packed into the rows of a weight; LSTM: i, f, g, o, GRU: r, z, n."""


@dataclass(frozen=True)
class Cell:
    """The weights of one layer in one direction: ``[gates * hidden, in]``, ``[gates * hidden, out]``, biases ``[gates *
    hidden]``; with ``weight_hr`` ``[out, hidden]`` the state is projected, otherwise out is hidden."""

    weight_ih: fx.Node
    weight_hh: fx.Node
    bias_ih: fx.Node | None = None
    bias_hh: fx.Node | None = None
    weight_hr: fx.Node | None = None


@dataclass(frozen=True)
class Recurrent:
    """A call: ``layers[layer][direction]``. A sequence has dims (step, batch, feature), a single step has no step."""

    kind: str
    input: fx.Node
    states: tuple[fx.Node, ...]
    layers: tuple[tuple[Cell, ...], ...]
    sequence: bool = True
    batch_first: bool = False
    drops: bool = False

    @property
    def gates(self) -> int:
        """The number of gates in its weights."""
        return GATES[self.kind]

    @property
    def cells(self) -> list[Cell]:
        """All layers, both directions, in the order of the states."""
        return [cell for layer in self.layers for cell in layer]

    @property
    def projects(self) -> bool:
        """Whether the state is a projection of the hidden units."""
        return self.layers[0][0].weight_hr is not None


def recurrent(node: fx.Node) -> Recurrent:
    """The parts of a call of ``aten.lstm.input``, ``aten.lstm_cell`` and their like, which is of the family recurrent."""
    args: Any = node.args
    packet = node.target.overloadpacket.__name__  # type: ignore[union-attr]
    kind = packet.removesuffix("_cell")
    states = tuple(args[1]) if kind == "lstm" else (args[1],)
    if packet != kind:
        return Recurrent(kind, args[0], states, ((Cell(*args[2:6]),),), sequence=False)
    _, _, params, biases, layers, dropout, train, bidirectional, batch_first = args
    directions = 2 if bidirectional else 1
    size = len(params) // (layers * directions)
    cells = []
    for start in range(0, len(params), size):
        some = list(params[start : start + size])
        bias = some[2:4] if biases else [None, None]
        cells.append(Cell(*some[:2], *bias, *some[4 if biases else 2 :]))
    grouped = tuple(tuple(cells[i : i + directions]) for i in range(0, len(cells), directions))
    return Recurrent(kind, args[0], states, grouped, batch_first=batch_first, drops=bool(dropout and train))


def macs(node: fx.Node, shape: Shape) -> int:
    """Multiply-accumulates of all steps: every weight is multiplied with each example once a step."""
    found = recurrent(node)
    rows = 1
    for size in shape(found.input)[:-1]:
        rows *= size
    weights = [w for c in found.cells for w in (c.weight_ih, c.weight_hh, c.weight_hr) if w is not None]
    return rows * sum(shape(w)[0] * shape(w)[1] for w in weights)
