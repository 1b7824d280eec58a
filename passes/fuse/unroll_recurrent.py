"""Recurrent layers unrolled into products, gates and sums."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_doc import Doc
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import lookup
from fxopt.ir.recurrent import Cell, Recurrent, recurrent

aten = torch.ops.aten


@graph_pass
def unroll_recurrent(
    program: Program,
    *,
    sequences: Annotated[bool, Doc("Whether sequences are unrolled too, and not single steps alone.")] = True,
) -> None:
    """Unroll LSTM, GRU and RNN into products, gates and sums.

    For runtimes without such layers. The input projection is one product for all steps. Left alone, with
    the reason, are sequences of a dynamic length, layers that drop at random and, without ``sequences``, whatever is more
    than a single step (torch's LSTMCell, GRUCell and RNNCell).

    before:
        %x : f32[2,4]
        %h = param "h" : f32[2,3]
        %w = param "weight_ih" : f32[3,4]
        %u = param "weight_hh" : f32[3,3]
        %y = aten.rnn_tanh_cell(%x, %h, %w, %u)
        return %y
    after:
        %x : f32[2,4]
        %h = param "h" : f32[2,3]
        %w = param "weight_ih" : f32[3,4]
        %u = param "weight_hh" : f32[3,3]
        %a = aten.linear(%x, %w)
        %b = aten.linear(%h, %u)
        %c = aten.add.Tensor(%a, %b)
        %y = aten.tanh(%c)
        return %y
    """
    for node in [n for n in program.graph.nodes if (row := lookup(n)) and row.family == "recurrent"]:
        layer = recurrent(node)
        if not layer.sequence:
            _Unroll(program, node, layer).cell()
        elif not sequences:
            continue
        elif layer.drops:
            program.skip(node, "it drops at random between its layers")
        elif not isinstance(node.meta["val"][0].shape[1 if layer.batch_first else 0], int):
            program.skip(node, "the number of steps is dynamic, so that they cannot be unrolled")
        else:
            _Unroll(program, node, layer).sequence()


class _Unroll:
    """Writes the steps of one call in front of it."""

    def __init__(self, program: Program, node: fx.Node, layer: Recurrent) -> None:
        self.program, self.node, self.layer = program, node, layer
        self.units = layer.cells[0].weight_ih.meta["val"].shape[0] // layer.gates

    def cell(self) -> None:
        """A single step: its results are the states."""
        (cell,) = self.layer.cells
        read = self._call(aten.linear.default, self.layer.input, cell.weight_ih, *self._some(cell.bias_ih))
        states = self._step(cell, read, list(self.layer.states))
        if self.layer.kind == "lstm":
            self._replace(states)
        else:
            self.program.replace(self.node, states[0])

    def sequence(self) -> None:
        """All layers, one after the other, each direction step by step."""
        layer = self.layer
        time = 1 if layer.batch_first else 0
        x: Any = layer.input
        last: list[list[fx.Node]] = [[] for _ in layer.states]
        number = 0
        for cells in layer.layers:
            results = []
            for direction, cell in enumerate(cells):
                states = [self._call(aten.select.int, state, 0, number) for state in layer.states]
                number += 1
                read = self._call(aten.linear.default, x, cell.weight_ih, *self._some(cell.bias_ih))
                steps = list(range(self.node.meta["val"][0].shape[time]))
                made: dict[int, fx.Node] = {}
                for step in reversed(steps) if direction else steps:
                    states = self._step(cell, self._call(aten.select.int, read, time, step), states)
                    made[step] = states[0]
                results.append(self._call(aten.stack.default, [made[step] for step in steps], time))
                for found, state in zip(last, states, strict=True):
                    found.append(state)
            x = results[0] if len(results) == 1 else self._call(aten.cat.default, results, 2)
        self._replace([x, *(self._call(aten.stack.default, found) for found in last)])

    def _step(self, cell: Cell, read: fx.Node, states: list[fx.Node]) -> list[fx.Node]:
        """The states after a step; ``read`` is the input projection, with its bias."""
        again = self._call(aten.linear.default, states[0], cell.weight_hh, *self._some(cell.bias_hh))
        if self.layer.kind == "gru":
            return [self._gru(read, again, states[0])]
        both = self._call(aten.add.Tensor, read, again)
        if self.layer.kind != "lstm":
            curve = aten.relu.default if self.layer.kind == "rnn_relu" else aten.tanh.default
            return [self._call(curve, both)]
        i, f, g, o = (self._gate(both, k) for k in range(4))
        i, f, o = (self._call(aten.sigmoid.default, gate) for gate in (i, f, o))
        kept = self._call(aten.mul.Tensor, f, states[1])
        memory = self._call(aten.add.Tensor, kept, self._call(aten.mul.Tensor, i, self._call(aten.tanh.default, g)))
        state = self._call(aten.mul.Tensor, o, self._call(aten.tanh.default, memory))
        if cell.weight_hr is not None:
            state = self._call(aten.linear.default, state, cell.weight_hr)
        return [state, memory]

    def _gru(self, read: fx.Node, again: fx.Node, state: fx.Node) -> fx.Node:
        r, z = (
            self._call(aten.sigmoid.default, self._call(aten.add.Tensor, self._gate(read, k), self._gate(again, k)))
            for k in range(2)
        )
        reset = self._call(aten.mul.Tensor, r, self._gate(again, 2))
        new = self._call(aten.tanh.default, self._call(aten.add.Tensor, self._gate(read, 2), reset))
        change = self._call(aten.mul.Tensor, z, self._call(aten.sub.Tensor, state, new))
        return self._call(aten.add.Tensor, new, change)

    def _gate(self, packed: fx.Node, number: int) -> fx.Node:
        return self._call(aten.slice.Tensor, packed, 1, number * self.units, (number + 1) * self.units)

    def _replace(self, results: list[fx.Node]) -> None:
        for user in list(self.node.users):
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            self.program.graph.erase_node(user)
        self.program.graph.erase_node(self.node)

    def _some(self, bias: fx.Node | None) -> tuple[fx.Node, ...]:
        return () if bias is None else (bias,)

    def _call(self, target: Any, *args: Any) -> fx.Node:
        with self.program.graph.inserting_before(self.node):
            made = self.program.graph.call_function(target, args)
        made.meta["stack_trace"] = self.node.meta.get("stack_trace")
        return made
