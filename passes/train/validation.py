"""How good the weights are on the validation split: by the metric, and by the loss."""

from __future__ import annotations

from typing import Any

import torch

from fxopt.ir.trainable_module import TrainableModule
from fxopt.ir.transfer import put, take
from fxopt.passes.train.objective import Objective
from fxopt.passes.train.parts import in_parts
from fxopt.workload import Data
from fxopt.workload.batching import examples, in_batches

Score = tuple[float, float]
"""Validation metric, and minus the validation loss, which breaks ties."""


class Validation:
    """Evaluates a module where it is; batches that fill the memory of its device are halved.

    ``size`` is the one that the program takes alone, None if any, and then batches have ``batch_size``.
    """

    def __init__(
        self,
        data: Data,
        module: TrainableModule,
        objective: Objective,
        kwargs: dict[str, Any],
        size: int | None,
        batch_size: int,
    ) -> None:
        self._data, self._module, self._objective, self._kwargs = data, module, objective, kwargs
        self._size, self._batch = size, size or batch_size
        self._device = module.device

    def score(self) -> Score:
        """The score of the present weights."""
        losses = [
            self._loss(args, target)
            for args, target in self._data.batches("validation", batch_size=self._batch)
            if self._size is None or examples(args) == self._size
        ]
        metric = self._data.evaluate(in_batches(self._answer, self._size), "validation")
        return metric, -sum(losses) / max(1, len(losses))

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        """The module as a metric calls it: with tensors on the CPU, and for an answer on the CPU."""
        args, kwargs = put((args, kwargs), self._device)
        return take(self._module(*args, **kwargs))

    def _loss(self, args: tuple[Any, ...], target: Any) -> float:
        try:
            some, wanted = put((args, target), self._device)
            return float(self._objective.validation(self._module(*some, **self._kwargs), some, wanted))
        except torch.OutOfMemoryError:
            if self._size is not None or examples(args) < 2:
                raise
        return sum(share * self._loss(some, wanted) for some, wanted, share in in_parts(args, target, 2))
