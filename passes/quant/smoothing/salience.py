"""Factors by which salient input channels of weights lose less to rounding (AWQ)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.passes.quant.smoothing.absorb import Readers
from fxopt.passes.quant.smoothing.factors import Factors, Proposal
from fxopt.passes.quant.smoothing.peaks import watch_rows
from fxopt.passes.quant.weight_only.blocks import Grid, nearest

_SHARES = tuple(i / 20 for i in range(20))
"""Values of alpha that are tried."""
_ROWS = 512
"""Rows of a linear's inputs, at most, on which the error is measured."""


@dataclass(eq=False)
class InputSample:
    """Of a linear's inputs: the sum of |x| float64 ``[in]`` over ``count`` rows, and some of the rows float64 ``[n, in]``."""

    total: torch.Tensor
    rows: torch.Tensor
    count: int

    def add(self, rows: torch.Tensor) -> None:
        """Take a batch in; of all rows so far every ``n``-th stays in the sample."""
        self.total = self.total + rows.double().abs().sum(0)
        self.rows = torch.cat([self.rows, rows.double()])
        self.rows = self.rows[:: -(-len(self.rows) // _ROWS)]
        self.count += len(rows)


def input_samples(program: Program, batches: Iterable[tuple[Any, ...]], readers: Readers) -> dict[fx.Node, InputSample]:
    """By weight: a sample of what all linears with it read. Raises DataError as :func:`watch_rows`."""
    found: dict[fx.Node, InputSample] = {}
    weights: dict[fx.Node, dict[fx.Node, None]] = {}
    for linear, weight in readers.items():
        weights.setdefault(linear.all_input_nodes[0], {})[weight] = None

    def see(node: fx.Node, rows: torch.Tensor) -> None:
        empty = rows[:0].double()
        for weight in weights[node]:
            found.setdefault(weight, InputSample(empty.sum(0), empty, 0)).add(rows)

    watch_rows(program, batches, weights, see)
    return found


def by_salience(factors: Factors, samples: dict[fx.Node, InputSample], bits: int, block: int) -> Proposal:
    """s = (mean|X_j|)^alpha over the square root of their largest times their smallest, of the alpha with the least error.

    The error is ‖Q(W · s) · (X / s) - W · X‖² over a sample of inputs, summed over all linears that read the channels
    (Lin et al. 2023, AWQ, eq. 4 and 5). ``samples`` are by weight. A factor of several columns is that of the largest mean.
    """

    def propose(mine: torch.Tensor, numbers: dict[fx.Node, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        means = torch.zeros_like(factors.s)
        for weight, number in numbers.items():
            sample = samples[weight]
            means.scatter_reduce_(0, number, sample.total / sample.count, "amax")
        used = mine & (means > 0)
        best, least = torch.ones_like(means), torch.inf
        for share in _SHARES:
            s = torch.where(used, means**share, 1.0)
            if bool(used.any()):
                s = torch.where(used, s / (s[used].max() * s[used].min()).sqrt(), 1.0)
            lost = sum(_lost(factors, w, s[number], samples[w], bits, block) for w, number in numbers.items())
            if lost < least:
                best, least = s, lost
        return best, mine & ~used

    return propose


def _lost(factors: Factors, weight: fx.Node, s: torch.Tensor, sample: InputSample, bits: int, block: int) -> float:
    tensor = factors.needs.program.tensor(weight)
    assert tensor is not None
    rows = tensor.detach().double()
    rounded = nearest((rows * s).float(), Grid.of(bits, block, rows.shape[1])).real().double() / s
    return float((sample.rows @ (rounded - rows).T).square().sum())
