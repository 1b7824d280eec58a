"""Error of a value against its reference, over any number of batches, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass
class ErrorSums:
    """Sums in float64 over the elements of a value and of its reference."""

    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    noise: float = 0.0

    def add(self, want: torch.Tensor, got: torch.Tensor, counted: torch.Tensor | None = None) -> None:
        """Add a batch; noise counts only where ``counted`` is True."""
        want, got = want.double(), got.double()
        noise = (got - want).square()
        self.signal += want.square().sum().item()
        self.power += got.square().sum().item()
        self.product += (want * got).sum().item()
        self.noise += (noise if counted is None else noise * counted).sum().item()

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio in dB; inf where there is no noise, -inf where there is no signal or a NaN."""
        if self.noise == 0:
            return math.inf
        ok = self.signal > 0 and math.isfinite(self.noise) and math.isfinite(self.signal)
        return 10 * math.log10(self.signal / self.noise) if ok else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both, as vectors; 1 where one of them is zero."""
        length = math.sqrt(self.signal * self.power)
        return self.product / length if length else 1.0
