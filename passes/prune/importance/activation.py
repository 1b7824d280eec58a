"""Importance over calibration batches: how large the channels are that layers read, and what these make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from fxopt.errors import DataError
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.ir.transfer import summable, take
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.common.weight_value import weight_value
from fxopt.passes.prune.coupling.sweep import Contraction
from fxopt.passes.prune.importance.cells_of_atoms import Question, Scored, summed_by_atom

_Key = tuple[int, int]
"""A contraction and one of its operands, by number."""

Spread = Callable[[torch.Tensor], torch.Tensor]


def activation(asked: Question) -> Iterator[Scored]:
    """Mean |x| of a channel over examples and positions, where a layer reads it (Molchanov et al. 2017, section 2.2).

    The score of a head or another block of channels is the sum over them. Memory does not grow with the examples.
    """
    for (site, _), mean in _means(asked, 1).items():
        rows = asked.sweep.resolve(asked.sweep.contractions[site].rows)
        yield summed_by_atom(rows, mean)


def wanda(asked: Question) -> Iterator[Scored]:
    """Σ w²·E[x²] over the weights w that read a channel x, as a share of that of all channels that the layer reads.

    The square of the score of Sun et al. 2023 (Wanda, eq. 1), summed over a column: the energy that the channel adds to
    what the layer gives. Shares, so that no layer counts for more because of its scale.
    """
    for (site, _), mean in _means(asked, 2).items():
        contraction = asked.sweep.contractions[site]
        if contraction.weight is not None and contraction.spread is not None:
            weight = weight_value(asked.program, contraction.weight).double()
            energy = _sums(weight.square(), contraction.spread, len(mean)) * mean
            yield summed_by_atom(asked.sweep.resolve(contraction.rows), energy / energy.sum().clamp_min(1e-300))


def _sums(cells: torch.Tensor, spread: Spread, count: int) -> torch.Tensor:
    """Sums of cells over those that each index is spread to: the derivative of the sum of both by the index."""
    ones = torch.ones(count, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad((cells * spread(ones)).sum(), ones)
    return found


def _means(asked: Question, power: int) -> dict[_Key, torch.Tensor]:
    """Mean |x|^power of the channels that every contraction reads, by its number and operand."""
    means = _Means(asked.program, asked.sweep.contractions, asked.who, power)
    with torch.no_grad(), placed(asked.program, asked.device):
        for leaves in calibration_batches(asked.program, asked.workload, asked.samples, asked.who):
            means.run(*leaves, enable_io_processing=False)
    return {key: take(total) / means.counts[key] for key, total in means.sums.items()}


class _Means(fx.Interpreter):
    """Runs the graph and sums |x|^power over all dims but the one that is contracted, at every contraction."""

    def __init__(self, program: Program, contractions: list[Contraction], who: str, power: int) -> None:
        super().__init__(program.module)
        self.sums: dict[_Key, torch.Tensor] = {}
        self.counts: dict[_Key, int] = {}
        self._program, self._who, self._power = program, who, power
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
        value = summable(value)
        sizes = (
            (value.abs() if self._power == 1 else value.double().square())
            .movedim(dim, -1)
            .flatten(0, -2)
            .sum(0, dtype=torch.float64)
        )
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
