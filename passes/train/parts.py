"""A batch in parts that run one after another, so that it needs the memory of a part; as many as a device needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import DataError, ResourceError
from fxopt.ir.program import Program
from fxopt.passes.train.options import TrainOptions
from fxopt.workload.batching import examples

_T = TypeVar("_T")

Part = tuple[tuple[Any, ...], Any, float]
"""Arguments and targets of some of the examples, and their share of the batch."""


def in_parts(args: tuple[Any, ...], target: Any, count: int) -> Iterator[Part]:
    """Cut a batch into ``count`` parts of nearly equal size, or one for each example of a smaller one.

    Tensors whose first size is the batch's are cut, and the others are in each part.
    """
    total = examples(args)
    count = min(count, total)
    if count <= 1:
        yield args, target, 1.0
        return
    for i in range(count):
        low, high = i * total // count, (i + 1) * total // count

        def some(value: Any, rows: slice = slice(low, high)) -> Any:
            whole = isinstance(value, torch.Tensor) and value.dim() and len(value) == total
            return value[rows] if whole else value

        yield pytree.tree_map(some, args), pytree.tree_map(some, target), (high - low) / total


class Parts:
    """Into how many parts batches are cut: as many as asked for, and more from where a device's memory is full."""

    def __init__(self, how: TrainOptions, device: torch.device, size: int | None, processes: int) -> None:
        """``size`` is the number of examples that the program takes alone, None if any. Raises DataError for parts of it."""
        alone = f"the program takes batches of {size} alone" if size is not None else None
        if alone and how.accumulate > 1:
            raise DataError(
                f"{how.name}: accumulate={how.accumulate} runs batches in parts, and {alone}",
                way_out="capture it with a dynamic batch, or leave accumulate out",
            )
        self.count, self._how, self._device = how.accumulate, how, device
        self._hindrance = alone or ("processes would no longer run in step" if processes > 1 else None)

    def fit(self, attempt: Callable[[int], _T], size: int, where: str) -> _T:
        """``attempt`` with the number of parts of a batch of ``size``, in twice as many as long as they do not fit.

        Raises ResourceError, which says ``where``, for parts that cannot be smaller.
        """
        while True:
            try:
                return attempt(min(self.count, size))
            except torch.OutOfMemoryError as error:
                cause = error.with_traceback(None)  # whose frames hold what fills the memory
            hindrance = "they are single examples" if self.count >= size else self._hindrance
            if hindrance:
                raise ResourceError(
                    f"{where}: the memory of {self._device} is full with {-(-size // self.count)} examples at once, and "
                    f"parts of a batch cannot be smaller: {hindrance}",
                    way_out="take a smaller batch_size, a larger accumulate, or precision='bf16-mixed'",
                ) from cause
            self.count = min(2 * self.count, size)

    def report(self, program: Program) -> None:
        """Say in the report of the step that there were more parts than asked for."""
        if self.count != self._how.accumulate:
            why = f"the memory of {self._device} was full: batches ran in parts, and batch norms saw these"
            program.chose("accumulate", self.count, why)
