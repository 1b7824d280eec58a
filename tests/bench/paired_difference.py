"""How sure the difference of two models' metrics is, as both are judged on the same examples of a split."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import t as student
from torch.utils import _pytree as pytree

from fxopt.workload import Data
from fxopt.workload.batching import examples

_GROUPS = 20

Model = Callable[..., Any]


def paired_difference(data: Data, ours: Model, theirs: Model, split: str = "test") -> tuple[float, float]:
    """The metric of ``ours`` less that of ``theirs``, and half of its 95 % interval over other examples like these.

    Every twentieth example is a group. What a group adds to the difference is the metric of a model that gives our outputs for
    it and theirs elsewhere, less theirs; that makes sense of any metric, a mean over examples or not. Differences add up,
    so that their variance is that of all (a delete-group jackknife; Kott 2001), with Student's t.
    """
    kept = [_Outputs(model) for model in (ours, theirs)]
    ours_alone, base = (data.evaluate(outputs.record, split) for outputs in kept)  # type: ignore[arg-type]
    added = [data.evaluate(_Mixed(*kept, group), split) - base for group in range(_GROUPS)]  # type: ignore[arg-type]
    half = student.ppf(0.975, _GROUPS - 1) * statistics.stdev(added) * _GROUPS**0.5
    return ours_alone - base, float(half)


class _Outputs:
    """What a model gave for each batch of an evaluation, in order."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.of_batch: list[Any] = []

    def record(self, *args: Any) -> Any:
        self.of_batch.append(pytree.tree_map(torch.as_tensor, self._model(*args)))
        return self.of_batch[-1]


class _Mixed:
    """Gives the first's outputs for the examples of a group, and the second's for the others."""

    def __init__(self, first: _Outputs, second: _Outputs, group: int) -> None:
        self._batches = iter(zip(first.of_batch, second.of_batch, strict=True))
        self._group, self._seen = group, 0

    def __call__(self, *args: Any) -> Any:
        count = examples(args)
        takes = (torch.arange(self._seen, self._seen + count) % _GROUPS) == self._group
        self._seen += count
        first, second = next(self._batches)
        return pytree.tree_map(lambda a, b: torch.where(takes.view(-1, *[1] * (a.dim() - 1)), a, b), first, second)
