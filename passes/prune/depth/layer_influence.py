"""How much a residual branch changes the direction of the stream that it is added to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from fxopt.errors import DataError
from fxopt.ir.alias_analysis import written
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.ir.transfer import put, summable
from fxopt.numerics.compute_device import seeded
from fxopt.numerics.execute import untouched
from fxopt.numerics.probe_inputs import probe_inputs
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.prune.depth.branch_weights import Site
from fxopt.passes.prune.depth.residual import Branch
from fxopt.workload import Workload

_TINY = torch.finfo(torch.float64).tiny


def influences(
    program: Program,
    workload: Workload | None,
    branches: Sequence[tuple[Branch, Sequence[Site]]],
    samples: int,
    who: str,
    device: str = "cpu",
) -> list[float]:
    """1 - cosine(stream, stream + branch), mean over positions and examples: block influence (Men et al. 2024, eq. 1).

    The cosine is that of the features at one position, a token or a pixel. The feature dim is the one as long as the
    weights that end the branch: of several the last, or dim 1 of images. Where there is none, an example is one vector.
    The inputs are ``samples`` calibration examples where the workload has data, or else the example and random ones.
    Memory does not grow with them. Raises DataError for data that do not fit, or values that are not finite.
    """
    with placed(program, device), seeded(program.device, 0), torch.no_grad():
        return _influences(program, workload, branches, samples, who)


def _influences(
    program: Program,
    workload: Workload | None,
    branches: Sequence[tuple[Branch, Sequence[Site]]],
    samples: int,
    who: str,
) -> list[float]:
    with_data = workload is not None and workload.data is not None
    batches: Any = calibration_batches(program, workload, samples, who) if with_data else probe_inputs(program)
    watch = _Watch(program, branches, who)
    for leaves in batches:
        with untouched(program):
            given = (v.clone() if isinstance(v, torch.Tensor) else v for v in put(leaves, program.device))
            watch.run(*given, enable_io_processing=False)
    return [watch.totals[branch.total] / watch.counts[branch.total] for branch, _ in branches]


class _Watch(fx.Interpreter):
    """Runs the graph, and compares the operands with the results of sums."""

    def __init__(self, program: Program, branches: Sequence[tuple[Branch, Sequence[Site]]], who: str) -> None:
        super().__init__(program.module)
        self._program, self._who = program, who
        self._at = {branch.total: (branch, features(program, branch, sites)) for branch, sites in branches}
        self.totals = dict.fromkeys(self._at, 0.0)
        self.counts = dict.fromkeys(self._at, 0)

    def run_node(self, n: fx.Node) -> Any:
        if n not in self._at:
            return super().run_node(n)
        branch, dim = self._at[n]
        before = self.env[branch.stream]
        before = before.clone() if written(n) else before
        after = super().run_node(n)
        turned = half_squares(before, after, dim)
        if not bool(turned.isfinite().all() & after.isfinite().all()):
            raise DataError(f"{self._who}: NaN or infinity in the stream\n    {self._program.describe(n)}")
        self.totals[n] += turned.sum().item()
        self.counts[n] += turned.numel()
        return after


def half_squares(before: torch.Tensor, after: torch.Tensor, dim: int | None) -> torch.Tensor:
    """1 - cosine along a dim, or of whole examples: as half the squared distance of unit vectors, which does not cancel."""
    before, after = summable(before), summable(after)
    if dim is None:
        before, after, dim = before.flatten(1), after.flatten(1), 1
    units = [F.normalize(value.double(), dim=dim, eps=_TINY) for value in (before, after)]
    return (units[0] - units[1]).square().sum(dim) / 2


def features(program: Program, branch: Branch, sites: Sequence[Site]) -> int | None:
    """The feature dim of the stream; None where it cannot be told from the weights."""
    sizes = {size for _, weight in sites for size in _lengths(program.tensor(weight)) if size > 1}
    shape = branch.total.meta["val"].shape
    found = [dim for dim in range(1, len(shape)) if isinstance(shape[dim], int) and shape[dim] in sizes]
    if not found:
        return None if len(shape) > 1 else 0
    return 1 if len(shape) > 3 and 1 in found else found[-1]


def _lengths(weight: torch.Tensor | None) -> Iterator[int]:
    """What the number of features may be, by a weight: of a vector its length, of a matrix either side."""
    if weight is None or weight.dim() == 0:
        return
    if max(weight.shape) == weight.numel():
        yield weight.numel()
    else:
        yield from (weight.shape[0], *weight.shape[1:] * (weight.dim() == 2))
