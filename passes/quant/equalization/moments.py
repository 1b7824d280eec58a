"""Mean and standard deviation per channel of layers' outputs on the calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from fxopt import Program
from fxopt.errors import DataError
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.quant.equalization.layers import channel_dim
from fxopt.workload import Workload

Moments = tuple[torch.Tensor, torch.Tensor]
"""Means and standard deviations, float64 [channels]."""


class _Sums(fx.Interpreter):
    """Adds up, for every wanted layer, count, sum and sum of squares per channel in float64."""

    def __init__(self, program: Program, wanted: Iterable[fx.Node]) -> None:
        super().__init__(program.module)
        self._program = program
        self.sums: dict[fx.Node, list[torch.Tensor]] = {node: [] for node in wanted}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.sums:
            rows = value.double().movedim(channel_dim(n), 0).flatten(1)
            new = torch.stack([torch.full_like(rows[:, 0], rows.shape[1]), rows.sum(1), rows.square().sum(1)])
            if not bool(new.isfinite().all()):
                raise DataError(
                    "calibration met NaN or infinity",
                    node=self._program.describe(n),
                    way_out="look at the images, or at the layers before this one",
                )
            self.sums[n] = [sum(self.sums[n], new)]
        return value


def measure_moments(
    program: Program, workload: Workload | None, images: int, layers: Iterable[fx.Node], who: str
) -> dict[fx.Node, Moments]:
    """Moments of each layer's result over ``images`` examples and all positions. Raises DataError without usable data."""
    run = _Sums(program, layers)
    with torch.no_grad():
        for leaves in calibration_batches(program, workload, images, who):
            run.run(*leaves, enable_io_processing=False)
    found = {}
    for node, [(count, total, squares)] in run.sums.items():
        mean = total / count
        found[node] = mean, (squares / count - mean.square()).clamp(min=0).sqrt()
    return found
