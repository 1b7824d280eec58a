"""Principal components of what the norms of a stream give, over calibration examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from fxopt.errors import DataError
from fxopt.ir.program import Program
from fxopt.numerics.float64 import float64_default, to_float64, widen
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.common.data_dtypes import with_dtypes_of
from fxopt.passes.common.run_until import values_until
from fxopt.workload import Workload


def principal_components(
    program: Program, workload: Workload | None, norms: Mapping[int, Sequence[fx.Node]], samples: int, who: str
) -> dict[int, torch.Tensor]:
    """For each stream a matrix float64 ``[n, n]`` whose rows are its principal components, the strongest first.

    ``norms`` are the RMS norms of each stream. With X the normed signals of all examples and positions, the components are
    the eigenvectors of XᵀX, summed over the norms (Ashkboos et al. 2024, SliceGPT, section 3.3). Computed in float64
    whatever the program is in, so that a replay finds the same. Raises DataError without usable data.
    """
    twin = to_float64(program)
    named = {node.name: node for node in twin.graph.nodes}
    inputs = {norm: named[norm.args[0].name] for found in norms.values() for norm in found}  # type: ignore[union-attr]
    sums: dict[int, torch.Tensor] = {}
    with torch.no_grad(), float64_default():
        for leaves in calibration_batches(program, with_dtypes_of(program, workload), samples, who):
            values = values_until(twin, [widen(leaf) for leaf in leaves], set(inputs.values()))
            for number, found in norms.items():
                for norm in found:
                    x = values[inputs[norm]].flatten(0, -2)
                    x = x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
                    sums[number] = sums.get(number, 0) + x.T @ x / len(x)
    for number, total in sums.items():
        if not bool(total.isfinite().all()):
            raise DataError(f"{who}: calibration met NaN or infinity\n    {program.describe(norms[number][0])}")
    return {number: torch.linalg.eigh(total).eigenvectors.flip(1).T.contiguous() for number, total in sums.items()}
