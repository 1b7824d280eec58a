"""The code of an activation: how real numbers become integers of a format, with zero among them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_DTYPES = {(8, False): torch.uint8, (8, True): torch.int8, (16, False): torch.uint16, (16, True): torch.int16}


@dataclass(frozen=True)
class Format:
    """An integer format of 8 or 16 bits."""

    bits: int = 8
    signed: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest integer."""
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds the integers."""
        return _DTYPES[self.bits, self.signed]


UINT8 = Format()


@dataclass(frozen=True)
class Affine:
    """How real numbers become integers: q = clamp(round(x / scale) + zero_point), clamped to the limits of the format."""

    scale: float
    zero_point: int
    form: Format = UINT8

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest real number that has a code of its own."""
        low, high = self.form.limits
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale

    @classmethod
    def over(cls, low: float, high: float, form: Format = UINT8) -> Affine:
        """The code of the range from ``low`` to ``high``, widened to hold zero, so that padding and relu are exact.

        Jacob et al. 2018, eq. 1 and section 3: the zero point is an integer, so zero is a code. The scale is a float32.
        """
        low, high = min(0.0, low), max(0.0, high)
        first, last = form.limits
        steps = last - first
        spread = high - low
        if spread < 1e-12:
            return cls(1.0 / steps, first, form)  # all zeros: any scale holds them
        scale = float(torch.tensor(spread / steps, dtype=torch.float32))
        return cls(scale, min(last, max(first, first + round(-low / scale))), form)
