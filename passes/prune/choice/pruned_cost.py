"""The cost of a program without some of its atoms, before anything is changed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxopt import Program
from fxopt.ir.cost import Cost, cost, counted_shapes, parameter_nodes
from fxopt.ir.op_table import Shape, lookup
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Sweep


class PrunedCost:
    """Costs of a program for any choice of dead atoms: shapes are those of the axes without them."""

    def __init__(self, program: Program, sweep: Sweep) -> None:
        self.program, self.sweep = program, sweep
        self.dense: Cost = cost(program)
        self._shape = counted_shapes(program)
        self._calls = [
            (n, row.macs) for n in program.graph.nodes if n.op == "call_function" and (row := lookup(n)) and row.macs
        ]
        self._parameters = parameter_nodes(program)

    def macs_by_node(self, dead: NDArray[np.bool_]) -> dict[fx.Node, int]:
        """Multiply-accumulates of every contraction."""
        shape = self._shapes(dead)
        return {node: macs(node, shape) for node, macs in self._calls}

    def macs(self, dead: NDArray[np.bool_]) -> int:
        """Multiply-accumulates of the whole."""
        return sum(self.macs_by_node(dead).values())

    def params(self, dead: NDArray[np.bool_]) -> int:
        """Number of parameters."""
        shape = self._shapes(dead)
        return sum(math.prod(shape(node)) for node in self._parameters)

    def _shapes(self, dead: NDArray[np.bool_]) -> Shape:
        cut = Cut(self.program, self.sweep, ~dead)

        def shape(node: fx.Node) -> tuple[int, ...]:
            counts = [cut.count(axis) for axis in self.sweep.of(node)]
            return tuple(n // old * max(new, 1) for n, (old, new) in zip(self._shape(node), counts, strict=True))

        return shape
