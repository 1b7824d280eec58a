"""A workload with synthetic data for any program, so that passes that need data can be checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program
from fxopt.numerics.probe_inputs import random_batch
from fxopt.workload import Args, Split, Workload

_BATCHES: dict[Split, range] = {"train": range(0, 4), "validation": range(4, 6), "test": range(6, 8)}


class SmallData:
    """Random inputs like the example, 0.9 times the program's own outputs as targets, mean squared error as loss.

    So there is something to learn, and a gradient that is not zero.
    """

    metric = "closeness"

    def __init__(self, program: Program) -> None:
        self.program = program.copy()

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``(args, target)``; a batch has the example's size, or ``batch_size`` at most where that is dynamic."""
        for number in _BATCHES[split]:
            args = self._args(number)
            yield args, pytree.tree_map(_less, self.program(*args, **self.program.kwargs))

    def _args(self, number: int) -> Args:
        generator = torch.Generator().manual_seed(number)
        return pytree.tree_map(lambda value: _like(value, generator), self.program.args)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Mean squared error over every floating output."""
        pairs = zip(pytree.tree_leaves(output), pytree.tree_leaves(target), strict=True)
        losses = [(a - b).pow(2).mean() for a, b in pairs if isinstance(a, torch.Tensor) and a.is_floating_point()]
        return torch.stack(losses).sum()

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """1 / (1 + mean squared error), 0 to 1."""
        errors = []
        for args, target in self.batches(split, batch_size=2):
            output = pytree.tree_map(torch.as_tensor, model(*args, **self.program.kwargs))
            errors.append(float(self.loss(output, target)))
        return 1 / (1 + sum(errors) / len(errors))


def _less(value: Any) -> Any:
    return 0.9 * value if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _like(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator).to(value.dtype)
    values = value.flatten()
    return values[torch.randint(len(values), value.shape, generator=generator)]


def small_workload(program: Program, name: str = "small") -> Workload:
    """Wrap a program as a workload with synthetic data."""
    kept = program.copy()
    return Workload(
        name=name,
        model=lambda: kept.module,
        inputs=lambda: (kept.args, kept.kwargs),
        data=SmallData(kept),
        program=kept.copy,
    )


def other_batch(program: Program, size: int) -> tuple[Args, dict[str, Any]]:
    """Random inputs like the example with another batch size, for a program whose batch is dynamic."""
    args, kwargs = pytree.tree_unflatten(
        random_batch(program, size), pytree.tree_structure((program.args, program.kwargs))
    )
    return args, kwargs
