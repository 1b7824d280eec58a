"""Observers: what calibration remembers of an activation, in constant memory however many images there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Affine:
    """How real numbers become bytes: q = clamp(round(x / scale) + zero_point, 0, 255)."""

    scale: float
    zero_point: int


class MinMax:
    """Streaming minimum and maximum over everything seen."""

    def __init__(self) -> None:
        self.low = 0.0
        self.high = 0.0

    def see(self, value: torch.Tensor) -> bool:
        """Take a tensor of any shape into account; False, and nothing taken, where it holds NaN or infinity."""
        if not value.numel():
            return True
        low, high = (bound.item() for bound in torch.aminmax(value))  # NaN anywhere makes both NaN
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        return True

    def affine(self) -> Affine:
        """Scale and zero point of uint8 over the range seen, zero included so that padding and relu are exact.

        The range is that of Jacob et al. 2018, eq. 1 and section 3: the zero point is an integer, so zero is a code.
        """
        spread = self.high - self.low
        if spread < 1e-12:
            return Affine(1.0 / 255, 0)  # all zeros: any scale holds them
        scale = float(torch.tensor(spread / 255, dtype=torch.float32))
        return Affine(scale, min(255, max(0, round(-self.low / scale))))
