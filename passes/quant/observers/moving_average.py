"""A range that follows the batches' ranges slowly."""

from __future__ import annotations

import torch

from fxopt.passes.quant.observers.affine import Format
from fxopt.passes.quant.observers.observer import Observer

_NEW = 0.1
"""The share of the newest batch. The 0.01 that is usual in training would let the first of few batches decide."""


class MovingAverage(Observer):
    """Exponential moving average of each batch's minimum and maximum (Jacob et al. 2018, section 3.1).

    Starts at the first batch; each later one counts a tenth, and the average so far nine tenths. The result depends on the
    order and the size of the batches.
    """

    def __init__(self) -> None:
        super().__init__()
        self._average: tuple[float, float] | None = None

    def take(self, value: torch.Tensor, low: float, high: float) -> None:
        """Move the range a tenth of the way to that of the batch."""
        old_low, old_high = self._average or (low, high)
        self._average = old_low + _NEW * (low - old_low), old_high + _NEW * (high - old_high)

    def bounds(self, form: Format) -> tuple[float, float]:
        """The averages, whatever the format."""
        assert self._average is not None
        return self._average
