"""Matrices that are inserted where no weight is there to take a change of basis, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.cost import cost, counted_shapes
from fxopt.ir.program import Program

aten = torch.ops.aten


@dataclass
class MatrixBudget:
    """Multiply-accumulates that inserted matrices may cost, as a share of the program's."""

    program: Program
    share: float
    _left: float | None = None

    def refuses(self, values: list[fx.Node], channels: int) -> str | None:
        """Why matrices on these values would cost too much; None takes them from the budget."""
        total = cost(self.program).macs or 1
        self._left = self.share * total if self._left is None else self._left
        shape = counted_shapes(self.program)
        price = sum(math.prod(shape(value)) * channels for value in values)
        if price > self._left:
            return (
                f"{len(values)} matrices of {channels} x {channels} would have to be inserted, {price / total:.1%} of the MACs: "
                f"more than is left of matrices={self.share:g}"
            )
        self._left -= price
        return None


def insert_matrix(program: Program, value: fx.Node, readers: list[fx.Node], matrix: torch.Tensor, name: str) -> None:
    """Let calls read the product of a value ``[..., n]`` with a matrix float64 ``[n, n]``: a linear without bias."""
    readers = sorted(readers)
    weight = program.add_tensor(f"{name}.weight", matrix.to(value.meta["val"].dtype), readers[0])
    with program.graph.inserting_before(readers[0]):
        product = program.graph.call_function(aten.linear.default, (value, weight))
    product.meta["stack_trace"] = readers[0].meta.get("stack_trace")
    product.meta["val"] = value.meta["val"]
    for reader in readers:
        reader.replace_input_with(value, product)
