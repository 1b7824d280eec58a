"""Second moments of layers' inputs; and weights in the basis in which these are white."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.errors import DataError
from fxopt.ir.op_table import arguments
from fxopt.ir.placement import placed
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.transfer import summable, take
from fxopt.numerics.module_state import copied
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.common.layer_rows import MatrixLayer
from fxopt.passes.common.weight_modes import SplitWeight
from fxopt.passes.lowrank.find_weights import OPERANDS, PRODUCTS
from fxopt.workload import Workload

_DAMPING = 0.01
_POSITIONS = 32


@dataclass(frozen=True)
class Whitening:
    """A square root S of the second moment of the inputs, ``[groups, n, n]`` float64, and its inverse.

    With G = S·Sᵀ the mean of x·xᵀ, the error of the outputs is E‖xᵀ(W - V)‖² = ‖Sᵀ(W - V)‖², so the best V of a rank is
    S⁻ᵀ times the best approximation of SᵀW (Yuan et al. 2023, ASVD, with the whitening of Wang et al. 2024, SVD-LLM,
    section 3.1; here by eigenvalues, which a moment without full rank has too). G is damped by 1 % of the mean square.
    """

    root: torch.Tensor
    inverse: torch.Tensor

    @classmethod
    def of(cls, moment: torch.Tensor) -> Whitening:
        """The root of a moment ``[groups, n, n]``."""
        values, vectors = torch.linalg.eigh(moment)
        mean = moment.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
        mean = torch.where(mean > 0, mean, 1)  # its input is zero: any weight is as good as another
        values = (values.clamp_min(0) + _DAMPING * mean).sqrt()
        return cls(vectors * values[:, None, :], vectors.mT / values[:, :, None])

    def apply(self, canonical: torch.Tensor) -> torch.Tensor:
        """Sᵀ times ``[groups, *modes]``, over the first modes."""
        return _times(self.root.mT, canonical)

    def undo(self, canonical: torch.Tensor) -> torch.Tensor:
        """The weight that this is Sᵀ times."""
        return _times(self.inverse.mT, canonical)


def whitenings(
    program: Program,
    workload: Workload | None,
    weights: list[SplitWeight],
    patches: bool,
    *,
    samples: int,
    who: str,
    device: str = "cpu",
) -> list[Whitening | None]:
    """The whitening of each weight over ``samples`` training examples; None where only embeddings read it.

    Its basis are the input channels, all positions of the input counted alike. With ``patches``, for convolutions that
    are cut after the kernel, it is the whole patch of an output, at 32 positions drawn for each example. The program runs
    once; for every weight, a moment ``[groups, n, n]`` float64 is kept in memory. Raises DataError without usable data.
    """
    wanted = {node.name: i for i, weight in enumerate(weights) for node in weight.readers if _reads(weight, node)}
    totals: dict[int, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), placed(program, device):
        for leaves in calibration_batches(program, workload, samples, who):
            run = _Moments(program, weights, wanted, patches, generator, totals)
            run.run(*copied(leaves), enable_io_processing=False)
    totals = take(totals)
    for i, total in totals.items():
        if not bool(total.isfinite().all()):
            where = program.describe(weights[i].readers[0])
            raise DataError(f"{who}: calibration met NaN or infinity in what this reads\n    {where}")
    return [Whitening.of(totals[i]) if i in totals else None for i in range(len(weights))]


def _reads(weight: SplitWeight, node: fx.Node) -> bool:
    """Whether a reader multiplies with the weight along its first mode."""
    name = op_name(node)
    return name != "aten.embedding" and (weight.kind != "matrix" or (name in PRODUCTS) == weight.flipped)


class _Moments(fx.Interpreter):
    """Runs a program, and sums the mean of x·xᵀ over batches for the wanted layers."""

    def __init__(
        self,
        program: Program,
        weights: list[SplitWeight],
        wanted: Mapping[str, int],
        patches: bool,
        generator: torch.Generator,
        totals: dict[int, torch.Tensor],
    ) -> None:
        super().__init__(program.module)
        self._weights, self._wanted, self._patches = weights, wanted, patches
        self._generator, self._totals = generator, totals

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; if it is wanted, add its input."""
        number = self._wanted.get(n.name)
        if number is None:
            return super().run_node(n)
        source = arguments(n)[OPERANDS[op_name(n)][0]]
        read = self.env[source]
        value = super().run_node(n)
        rows = summable(self._rows(self._weights[number], n, source, read, value)).double()
        moment = rows.mT @ rows
        self._totals[number] = self._totals[number] + moment if number in self._totals else moment
        return value

    def _rows(
        self, weight: SplitWeight, node: fx.Node, source: fx.Node, read: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """The layer's input ``[groups, rows, n]``."""
        rank = len(weight.kernel)
        if weight.kind == "matrix":
            return read.reshape(1, -1, read.shape[-1])
        if read.dim() == rank + 1:
            read, value = read[None], value[None]
        if self._patches and weight.kind == "convolution":
            operand = arguments(node)["weight"]
            layer = MatrixLayer(node, source, operand, None, weight.groups)
            rows, _ = layer.rows(read, value, _POSITIONS * len(read), self._generator)
            return rows.flatten(2)
        return read.movedim(1, -1).reshape(-1, weight.groups, read.shape[1] // weight.groups).transpose(0, 1)


def _times(matrix: torch.Tensor, canonical: torch.Tensor) -> torch.Tensor:
    """A matrix ``[groups, n, n]`` times ``[groups, *modes]``, whose first modes have n indices together."""
    return (matrix @ canonical.reshape(len(matrix), matrix.shape[1], -1)).reshape(canonical.shape)
