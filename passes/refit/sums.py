"""The equations of layers, summed over all examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxopt.errors import DataError
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.ir.transfer import summable
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.common.run_until import values_until
from fxopt.passes.refit.counterparts import Counterpart
from fxopt.passes.refit.normal_equations import NormalEquations
from fxopt.workload import Workload
from fxopt.workload.batching import examples

_HELD_OUT = 5
"""One example in so many is held out."""


@dataclass
class Sums:
    """Equations of the rows that are fitted and of those held out, and the squares that the latter's output has."""

    fit: NormalEquations
    held: NormalEquations
    output: float = 0.0


def summed(
    original: Program,
    program: Program,
    workload: Workload | None,
    level: list[Counterpart],
    positions: int,
    samples: int,
    who: str,
    device: str = "cpu",
) -> dict[fx.Node, Sums]:
    """The equations of each layer of a level over all examples, which run on ``device``."""
    sums: dict[fx.Node, Sums] = {}
    generator = torch.Generator().manual_seed(0)
    seen = 0
    with torch.no_grad(), placed(original, device), placed(program, device):
        for leaves in calibration_batches(program, workload, samples, who):
            wanted = values_until(original, leaves, {pair.wanted for pair in level})
            given = values_until(program, leaves, {n for pair in level for n in (pair.layer.node, pair.layer.data)})
            count = examples(leaves)
            held = count >= _HELD_OUT or seen // count % _HELD_OUT == _HELD_OUT - 1
            for pair in level:
                _add(program, pair, wanted, given, positions * count, held, sums, generator, who)
            seen += count
    return {node: Sums(found.fit.taken(), found.held.taken(), found.output) for node, found in sums.items()}


def _add(
    program: Program,
    pair: Counterpart,
    wanted: dict[fx.Node, torch.Tensor],
    given: dict[fx.Node, torch.Tensor],
    rows: int,
    held: bool,
    sums: dict[fx.Node, Sums],
    generator: torch.Generator,
    who: str,
) -> None:
    layer, now = pair.layer, given[pair.layer.node]
    state = generator.get_state()
    x, want = layer.rows(given[layer.data], pair.value(wanted[pair.wanted]), rows, generator)
    generator.set_state(state)  # the same positions again
    _, got = layer.rows(given[layer.data], now, rows, generator)
    x, want, got = summable(x), summable(want), summable(got)
    x, want = (
        x.flatten(2).double(),
        want.double().transpose(0, 1),
    )  # [groups, rows, in · kernel] and [groups, rows, out]
    lack = want - got.double().transpose(0, 1)
    if not bool(lack.isfinite().all() & x.isfinite().all()):
        raise DataError(f"{who}: reconstruction met NaN or infinity\n    {program.describe(layer.node)}")
    if layer.node not in sums:
        size = (len(x), x.shape[2], want.shape[2])
        sums[layer.node] = Sums(NormalEquations(*size, x.device), NormalEquations(*size, x.device))
    found, whole = sums[layer.node], x.shape[1]
    cut = whole if not held else whole - whole // _HELD_OUT if whole >= _HELD_OUT else 0
    found.fit.add(x[:, :cut], lack[:, :cut])
    found.held.add(x[:, cut:], lack[:, cut:])
    found.output += float(want[:, cut:].square().sum())
