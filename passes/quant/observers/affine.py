"""Affine quantization parameters of an activation: scale, zero point and integer format; zero is exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fxopt.backend.quant_policy import Activations

_DTYPES = {
    (False, False): torch.uint8,
    (False, True): torch.int8,
    (True, False): torch.uint16,
    (True, True): torch.int16,
}


@dataclass(frozen=True)
class Format:
    """An integer format of up to 16 bits, stored in 8 or 16; a ``symmetric`` one has the zero point 0, whatever the range."""

    bits: int = 8
    signed: bool = False
    symmetric: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest integer."""
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that stores the integers."""
        return _DTYPES[self.bits > 8, self.signed]


UINT8 = Format()

FORMATS: dict[Activations, Format] = {
    "uint8": UINT8,
    "int8": Format(8, signed=True, symmetric=True),
    "uint16": Format(16),
    "int16": Format(16, signed=True, symmetric=True),
}


@dataclass(frozen=True)
class Affine:
    """Quantization parameters: q = clamp(round(x / scale) + zero_point), clamped to the limits of the format."""

    scale: float
    zero_point: int
    form: Format = UINT8

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest real number that is represented without clipping."""
        low, high = self.form.limits
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale

    @classmethod
    def over(cls, low: float, high: float, form: Format = UINT8) -> Affine:
        """Parameters for the range from ``low`` to ``high``, widened to include zero, so that padding and relu are exact.

        Jacob et al. 2018, eq. 1 and section 3: the zero point is an integer, so zero is exact. The scale is a float32.
        """
        low, high = min(0.0, low), max(0.0, high)
        first, last = form.limits
        steps = last - first
        spread = high - low
        zero = 0 if form.symmetric else first
        if form.symmetric:
            spread, steps = max(-low, high), last
        if spread < 1e-12:
            return cls(1.0 / steps, zero, form)  # all zeros: any scale will do
        scale = float(torch.tensor(spread / steps, dtype=torch.float32))
        if form.symmetric:
            return cls(scale, zero, form)
        return cls(scale, min(last, max(first, first + round(-low / scale))), form)
