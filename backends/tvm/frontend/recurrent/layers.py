"""Recurrent layers: products with the input for all steps at once, and a kernel that loops over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import fx

from fxopt.backends.tvm.frontend.recurrent.gate_sums import LANES
from fxopt.backends.tvm.frontend.recurrent.steps import Steps
from fxopt.ir.recurrent import Cell, Recurrent, recurrent

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import ExportedProgramImporter, Expr

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def recurrent_layers(importer: ExportedProgramImporter, node: fx.Node) -> list[Expr]:
    """All layers of a call, one after the other, each direction by itself; the outputs, and the last states."""
    from tvm import relax

    layer, emit = recurrent(node), importer.block_builder.emit
    states = [importer.env[state] for state in layer.states]
    x = importer.env[layer.input]
    if layer.batch_first:
        x = emit(relax.op.permute_dims(x, [1, 0, 2]))
    last: list[list[Expr]] = [[] for _ in states]
    number = 0
    for cells in layer.layers:
        outputs = []
        for direction, cell in enumerate(cells):
            first = [emit(relax.op.take(state, relax.const(number, "int64"), 0)) for state in states]
            output, *after = _Direction(importer, layer, cell, backward=direction == 1).run(x, first)
            outputs.append(output)
            for found, state in zip(last, after, strict=True):
                found.append(state)
            number += 1
        x = outputs[0] if len(outputs) == 1 else emit(relax.op.concat(outputs, 2))
    if layer.batch_first:
        x = emit(relax.op.permute_dims(x, [1, 0, 2]))
    return [x, *(emit(relax.op.stack(found, 0)) for found in last)]


class _Direction:
    """A layer in one direction."""

    def __init__(self, importer: ExportedProgramImporter, layer: Recurrent, cell: Cell, *, backward: bool) -> None:
        self.builder, self.env = importer.block_builder, importer.env
        self.layer, self.cell, self.backward = layer, cell, backward
        self.units = int(cell.weight_ih.meta["val"].shape[0]) // layer.gates

    def run(self, x: Expr, first: Sequence[Expr]) -> list[Expr]:
        """Of x [T,N,in] and the first states: the states after each step [T,N,out], and the last ones."""
        from tvm import relax

        cell, emit, units = self.cell, self.builder.emit, self.units
        bias, more = self._biases()
        read = emit(relax.op.linear(x, self.env[cell.weight_ih], bias))
        read = emit(relax.op.reshape(read, [*list(x.ty.shape)[:2], self.layer.gates, units]))
        more = [*first[1:], *more]
        if cell.weight_hr is not None:
            more.append(self._in_blocks(cell.weight_hr, 1))
        steps = Steps(self.layer.kind, self.backward)
        weight = self._in_blocks(cell.weight_hh, self.layer.gates)
        made = emit(self.builder.call_te(steps, read, weight, first[0], *more, primfunc_name_hint="recurrent_steps"))
        return [emit(relax.TupleGetItem(made, i)) for i in range(1 + len(first))]

    def _biases(self) -> tuple[Expr | None, list[Expr]]:
        """What is added to the products with the input, and what to those with the state, which only a GRU keeps apart."""
        import numpy as np
        from tvm import relax

        cell, emit, gru = self.cell, self.builder.emit, self.layer.kind == "gru"
        dtype = str(self.env[cell.weight_ih].ty.dtype)
        none = relax.const(np.zeros(self.units, dtype), dtype)
        if cell.bias_ih is None or cell.bias_hh is None:
            return None, [none] * gru
        read, again = self.env[cell.bias_ih], self.env[cell.bias_hh]
        if not gru:
            return emit(relax.op.add(read, again)), []
        r, z, new = (
            emit(relax.op.strided_slice(again, [0], [gate * self.units], [(gate + 1) * self.units]))
            for gate in range(3)
        )
        return emit(relax.op.add(read, emit(relax.op.concat([r, z, none], 0)))), [new]

    def _in_blocks(self, weight: fx.Node, gates: int) -> Expr:
        """A weight [gates·units, width] as the kernel reads it: [blocks, width, gates, lanes], with 0 for missing units."""
        from tvm import relax

        emit, rows = self.builder.emit, self.env[weight]
        units, width = int(rows.ty.shape[0]) // gates, int(rows.ty.shape[1])
        rows, blocks = emit(relax.op.reshape(rows, [gates, units, width])), -(-units // LANES)
        if units % LANES:
            rows = emit(relax.op.nn.pad(rows, [0, 0, 0, blocks * LANES - units, 0, 0]))
        rows = emit(relax.op.reshape(rows, [gates, blocks, LANES, width]))
        return emit(relax.op.permute_dims(rows, [1, 3, 0, 2]))
