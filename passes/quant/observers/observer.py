"""The base of all observers: they take tensors one by one, refuse values that are not finite, and choose a range in the end."""

from __future__ import annotations

import math

import torch

from fxopt.passes.quant.observers.affine import UINT8, Affine, Format


class Observer:
    """Keeps the least and the largest value of all it sees, and the statistics of a subclass.

    Its memory does not depend on how much it sees. ``lowest`` and ``highest`` are exact, and equal where every value
    was the same; before anything was seen they are infinity and minus infinity.
    """

    def __init__(self) -> None:
        self.lowest = math.inf
        self.highest = -math.inf

    def see(self, value: torch.Tensor) -> bool:
        """Take a tensor of any shape into account; False, and nothing taken, where it holds NaN or infinity.

        Values are converted to float32, so larger ones of a wider dtype are infinite.
        """
        if not value.numel():
            return True
        value = value.detach().float()
        if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
            value = value.permute(0, 2, 3, 1)  # the order in memory, so that flattening takes no copy
        low, high = (bound.item() for bound in torch.aminmax(value))  # NaN anywhere makes both NaN
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self.take(value, low, high)
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        return True

    def take(self, value: torch.Tensor, low: float, high: float) -> None:
        """Take in a finite, nonempty float32 tensor, whose minimum and maximum are ``low`` and ``high``."""

    def bounds(self, form: Format) -> tuple[float, float]:
        """The range that the format ``form`` should cover; called after something was seen."""
        raise NotImplementedError

    def affine(self, form: Format = UINT8) -> Affine:
        """Scale and zero point over the observer's range and zero; for an observer that saw nothing, those of zero."""
        low, high = self.bounds(form) if self.lowest <= self.highest else (0.0, 0.0)
        return Affine.over(low, high, form)
