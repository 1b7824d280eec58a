"""What is known of a value of a quantized program: a sum of integers with factors, which may be codes as it stands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Code:
    """How a number is stored: ``(stored - zero) * scale``, with ``stored`` in ``low`` … ``high`` of ``dtype``.

    ``offset`` is what the program's own code, of dtype ``given``, has more than the stored one: 128 where the kernels
    want signed bytes.
    """

    scale: float
    zero: int
    low: int
    high: int
    dtype: str
    given: str
    offset: int = 0

    def of(self, number: float) -> float:
        """The code of a number before it is clipped, as the program's quantize op rounds it, from the zero point."""
        scaled = np.float32(number) * (np.float32(1.0) / np.float32(self.scale))
        return float(np.round(scaled))

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest code, from the zero point."""
        return self.low - self.zero, self.high - self.zero


@dataclass(frozen=True)
class Place:
    """How a value lies in memory. ``image``: [n, H, W, held channels] of a value [n, C, H, W]; else [rows, C] or as it is.

    ``flat``: an image's lines are one: [n, 1, H * W, held].
    """

    shape: tuple[Any, ...]
    channels: int
    image: bool = False
    flat: bool = False

    @property
    def held(self) -> int:
        """Channels that there are in memory."""
        return int(self.shape[-1])


@dataclass(frozen=True, eq=False)
class Sum:
    """``clip(Σ expr * factor + bias, lower, upper)``; factors and bias are numbers, or arrays over the held channels.

    ``code``: set where the value is just the dequantized codes in its only term.
    """

    place: Place
    terms: tuple[tuple[Any, Any], ...]
    bias: Any = 0.0
    lower: float | None = None
    upper: float | None = None
    code: Code | None = None
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def clipped(self) -> bool:
        """Whether it has a bound."""
        return self.lower is not None or self.upper is not None

    def clip(self, lower: float | None, upper: float | None) -> Sum:
        """With further bounds; the new lower bound is not above the old upper one."""
        low = [bound for bound in (self.lower, lower) if bound is not None]
        high = [bound for bound in (self.upper, upper) if bound is not None]
        return replace(self, lower=max(low, default=None), upper=min(high, default=None), code=None, made={})

    def plus(self, number: Any) -> Sum:
        """With a number, or one a channel, added; it has no bounds."""
        return replace(self, bias=self.bias + number, code=None, made={})

    def times(self, number: Any) -> Sum:
        """With every number multiplied; it has no bounds."""
        terms = tuple((expr, factor * number) for expr, factor in self.terms)
        return replace(self, terms=terms, bias=self.bias * number, code=None, made={})


def coded(expr: Any, code: Code, place: Place) -> Sum:
    """The numbers that codes stand for."""
    scale = np.float32(code.scale)
    return Sum(place, ((expr, scale),), np.float32(-code.zero) * scale, code=code)
