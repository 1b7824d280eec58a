"""Mean and variance of the inputs of batch norms, over all examples and positions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from fxopt import Program
from fxopt.errors import DataError
from fxopt.ir.op_table import arguments
from fxopt.ir.transfer import put, summable, take
from fxopt.numerics.execute import started
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.workload import Workload


class Moments:
    """Count, mean and sum of squared deviations, float64 [channels], merged batch by batch.

    Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1: no large squares are subtracted, so
    channels far from zero keep their variance.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, value: torch.Tensor) -> bool:
        """Take ``value`` [N, channels, ...] into account; False, and nothing taken, where it is not finite."""
        rows = summable(value).double().movedim(1, 0).flatten(1)
        if not bool(rows.isfinite().all()):
            return False
        count = rows.shape[1]
        if not count:
            return True
        mean = rows.mean(1)
        self.mean, self.squares = put((self.mean, self.squares), rows.device)
        total, moved = self.count + count, mean - self.mean
        self.squares += (rows - mean[:, None]).square().sum(1) + moved.square() * (self.count * count / total)
        self.mean += moved * (count / total)
        self.count = total
        return True

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and unbiased variance; of a single value the variance is zero."""
        return self.mean, self.squares / max(1, self.count - 1)


def population(
    program: Program, workload: Workload | None, images: int, norms: Collection[fx.Node], who: str
) -> dict[fx.Node, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and unbiased variance float64 [channels] of each norm's input, over ``images`` training examples.

    Runs the graph as far as the last of the norms. A program of a fixed batch size sees the last example of a batch again
    where that has to be filled up. Raises DataError in the name of ``who`` without usable data or at values that are not finite.
    """
    found: dict[fx.Node, Moments] = {}
    with torch.no_grad():
        for leaves in calibration_batches(program, workload, images, who):
            _run(program, leaves, norms, found, who)
    if not all(moments.count for moments in found.values()):
        raise DataError(f"{who}: the batches that the workload gave hold no example")
    return {norm: take(moments.result()) for norm, moments in found.items()}


def _run(
    program: Program, leaves: list[Any], norms: Collection[fx.Node], found: dict[fx.Node, Moments], who: str
) -> None:
    run, left = started(fx.Interpreter(program.module), leaves), set(norms)
    for node in program.graph.nodes:
        if node in left:
            value = run.env[arguments(node)["input"]]
            if not found.setdefault(node, Moments(value.shape[1])).add(value):
                raise DataError(
                    f"{who} met NaN or infinity in what this reads",
                    node=program.describe(node),
                    way_out="look at the data, or at the layers before it",
                )
            left.remove(node)
            if not left:
                return
        run.env[node] = run.run_node(node)
        for gone in run.user_to_last_uses.get(node, ()):
            del run.env[gone]
