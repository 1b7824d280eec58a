"""Importance by activation: the magnitude of the channels that layers read, over calibration batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from fxopt.errors import DataError
from fxopt.ir.program import Program
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.prune.coupling.sweep import Contraction
from fxopt.passes.prune.importance.cells_of_atoms import Question, Scored, summed_by_atom

_Key = tuple[int, int]
"""A contraction and one of its operands, by number."""


def activation(asked: Question) -> Iterator[Scored]:
    """Mean |x| of a channel over examples and positions, where a layer reads it (Molchanov et al. 2017, section 2.2).

    The score of a head or another block of channels is the sum over them. Memory does not grow with the examples.
    """
    means = _Means(asked.program, asked.sweep.contractions, asked.who)
    with torch.no_grad():
        for leaves in calibration_batches(asked.program, asked.workload, asked.samples, asked.who):
            means.run(*leaves, enable_io_processing=False)
    for (site, operand), total in means.sums.items():
        rows = asked.sweep.resolve(asked.sweep.contractions[site].rows)
        yield summed_by_atom(rows, total / means.counts[site, operand])


class _Means(fx.Interpreter):
    """Runs the graph and sums |x| over all dims but the one that is contracted, at every contraction."""

    def __init__(self, program: Program, contractions: list[Contraction], who: str) -> None:
        super().__init__(program.module)
        self.sums: dict[_Key, torch.Tensor] = {}
        self.counts: dict[_Key, int] = {}
        self._program, self._who = program, who
        self._computed = _computed(program)
        self._at: dict[str, list[tuple[int, Contraction]]] = {}
        for number, contraction in enumerate(contractions):
            self._at.setdefault(contraction.node.name, []).append((number, contraction))

    def run_node(self, n: fx.Node) -> Any:
        # observed when it is read: an in-place op may have changed it since it was computed
        values = {operand.name: self.env[operand] for operand in n.all_input_nodes}
        for number, contraction in self._at.get(n.name, ()):
            for place, (operand, dim) in enumerate(contraction.operands):
                if operand.name in self._computed and operand.name in values:
                    self._see((number, place), n, values[operand.name], dim)
        return super().run_node(n)

    def _see(self, key: _Key, node: fx.Node, value: torch.Tensor, dim: int) -> None:
        sizes = value.abs().movedim(dim, -1).flatten(0, -2).sum(0, dtype=torch.float64)
        if not bool(sizes.isfinite().all()):
            raise DataError(
                f"{self._who}: calibration met NaN or infinity in what this reads\n    {self._program.describe(node)}"
            )
        self.sums[key] = self.sums.get(key, 0) + sizes
        self.counts[key] = self.counts.get(key, 0) + value.numel() // value.shape[dim]


def _computed(program: Program) -> set[str]:
    """Names of the nodes that depend on an input."""
    found: set[str] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder" or any(n.name in found for n in node.all_input_nodes):
            found.add(node.name)
    return found
