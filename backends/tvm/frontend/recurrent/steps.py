"""A recurrent layer in one direction as one kernel that loops over its steps.

The products with the input are made before, for all steps at once, so that a step multiplies the state alone. A thread takes a
pair of examples through all steps, and keeps the sums of a vector of units of all gates in registers::

    for step:
        for block of units:
            for k in state:
                for example in pair:
                    for gate:    sums[example, gate] += broadcast(state[example, k]) * weight[block, k, gate]    # vectorized
            gates of the block, to the next state
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxopt.backends.tvm.frontend.recurrent.gate_sums import LANES, Gate, blocks, lanes, products, store

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Buffer, Scalar, Stmt, TensorExpr

_PAIR = 2
"""Examples that share each load of the weights."""


@dataclass(frozen=True)
class Steps:
    """A layer of the ``kind`` lstm, gru, rnn_tanh or rnn_relu; ``backward`` goes from the last step to the first."""

    kind: str
    backward: bool

    def __call__(self, read: TensorExpr, weight: TensorExpr, state: TensorExpr, *more: TensorExpr) -> list[TensorExpr]:
        """The states after all steps [T,N,out], the last one [N,out], and an LSTM's memory [N,units]; then buffers.

        ``read`` [T,N,gates,units] has the products with the input, and biases. ``weight`` [blocks,out,gates,lanes] is that of
        the state, with 0 for units that the last block lacks. ``state`` [N,out] is the first. ``more`` is, of an LSTM, the
        first memory [N,units], and the weight of its projection, where it has one, as that of one gate; of a GRU, the bias
        [units] of the state's product in its third gate.
        """
        from tvm import te

        steps, examples, _, units = read.shape
        shapes = [(steps, examples, state.shape[1]), (examples, state.shape[1]), (2, examples, state.shape[1])]
        if self.kind == "lstm":
            shapes.insert(2, (examples, units))
        if len(more) > 1:
            shapes.append((examples, units))
        return list(
            te.extern(
                shapes, [read, weight, state, *more], lambda given, out: _Loops(self, given, out).whole(),
                dtype=[read.dtype] * len(shapes), name="recurrent_steps",
            )
        )  # fmt: skip


class _Loops:
    """Writes the loops of a layer; its methods give what they make to the builder that is open."""

    def __init__(self, layer: Steps, given: list[Buffer], out: list[Buffer]) -> None:
        self.layer, (self.read, self.weight, self.first, *more) = layer, given
        self.out, self.last, *rest = out
        self.memory: Any = rest.pop(0) if layer.kind == "lstm" else None
        self.states, self.dtype = rest.pop(0), str(self.read.dtype)
        self.bias: Any = more[0] if layer.kind == "gru" else None
        self.first_memory: Any = more[0] if layer.kind == "lstm" else None
        self.projection: Any = more[1] if rest else None
        self.hidden: Any = rest[0] if rest else None
        self.gates, self.units, self.width = (int(n) for n in (*list(self.read.shape)[2:], self.first.shape[1]))

    def whole(self) -> Stmt:
        """Pairs of examples in parallel, and the one that is left over."""
        from tvm.script.ir_builder import IRBuilder
        from tvm.script.ir_builder import tirx as T

        examples = self.read.shape[1]
        with IRBuilder() as builder:
            with T.parallel(0, (examples + _PAIR - 1) // _PAIR) as pair, T.If((pair + 1) * _PAIR <= examples):
                with T.Then():
                    self.sequence(pair * _PAIR, _PAIR)
                with T.Else():
                    self.sequence(pair * _PAIR, 1)
            return builder.get()

    def sequence(self, begin: Scalar, rows: int) -> None:
        """All steps of ``rows`` examples."""
        from tvm.script.ir_builder import tirx as T

        steps = self.read.shape[0]
        examples = [begin + row for row in range(rows)]
        with T.seq_scope():
            for n in examples:
                with T.serial(0, self.width) as i:
                    store(self.states, self.first[n, i], 0, n, i)
                if self.memory is not None:
                    with T.serial(0, self.units) as i:
                        store(self.memory, self.first_memory[n, i], n, i)
            with T.serial(0, steps) as step:
                self.step(step % 2, steps - 1 - step if self.layer.backward else step, examples)
            for n in examples:
                with T.serial(0, self.width) as i:
                    store(self.last, self.states[steps % 2, n, i], n, i)

    def step(self, now: Scalar, step: Scalar, examples: list[Scalar]) -> None:
        """From the state ``now``, 0 or 1, to the other one."""

        def keep(n: Scalar, unit: Scalar, value: Scalar) -> None:
            store(self.states, value, 1 - now, n, unit)
            store(self.out, value, step, n, unit)

        def start(n: Scalar, gate: int, unit: Scalar) -> Scalar:
            return self.bias[unit] if self.bias is not None and gate == 2 else self.read[step, n, gate, unit]

        def block(number: Scalar, count: int) -> None:
            found = products(self.weight, number, count, examples, lambda n, k: self.states[now, n, k], start)
            for row, n in enumerate(examples):
                self.gates_of(
                    [Gate(found, row, gate, count) for gate in range(self.gates)], n, step, now, number * LANES
                )
                with lanes(count) as v:
                    unit = number * LANES + v
                    value = found[row, 0, 0, v]
                    keep(n, unit, value) if self.hidden is None else store(self.hidden, value, n, unit)

        def project(number: Scalar, count: int) -> None:
            found = products(self.projection, number, count, examples, lambda n, k: self.hidden[n, k], None)
            for row, n in enumerate(examples):
                with lanes(count) as v:
                    keep(n, number * LANES + v, found[row, 0, 0, v])

        blocks(self.units, block)
        if self.projection is not None:
            blocks(self.width, project)

    def gates_of(self, gates: list[Gate], n: Scalar, step: Scalar, now: Scalar, first: Scalar) -> None:
        """Put the new units into the place of the sums of the first gate."""
        from tvm import tirx

        if self.layer.kind == "lstm":
            i, f, g, o = gates
            for gate_sums in (i, f, o):
                gate_sums.sigmoid()
            g.tanh()
            i.set(lambda v: f[v] * self.memory[n, first + v] + i[v] * g[v])
            i.copy(lambda v: (self.memory, (n, first + v)))
            i.tanh()
            i.set(lambda v: o[v] * i[v])
        elif self.layer.kind == "gru":
            r, z, new = gates
            r.sigmoid()
            z.sigmoid()
            new.set(lambda v: self.read[step, n, 2, first + v] + r[v] * new[v])
            new.tanh()
            r.set(lambda v: new[v] + z[v] * (self.states[now, n, first + v] - new[v]))
        elif self.layer.kind == "rnn_relu":
            (unit,) = gates
            unit.set(lambda v: tirx.max(unit[v], tirx.const(0, self.dtype)))
        else:
            gates[0].tanh()
