"""The range of a number by its annotations: its ends, and a number inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fxopt.support.options import bounds as annotated_bounds


@dataclass(frozen=True)
class NumberRange:
    """From ``low`` to ``high``, both included; None where it is unbounded. Integers are multiples of ``step``."""

    low: float | None = None
    high: float | None = None
    step: int | None = None

    @classmethod
    def of(cls, base: type, extras: tuple[Any, ...]) -> NumberRange:
        """Read Ge, Gt, Le, Lt, Interval and MultipleOf. An exclusive bound is replaced by the number next to it."""
        bounds = dict(annotated_bounds(extras))
        low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
        if base is float:
            low = math.nextafter(low, math.inf) if low is not None and "ge" not in bounds else low
            high = math.nextafter(high, -math.inf) if high is not None and "le" not in bounds else high
            return cls(low, high)
        step = int(bounds.get("multiple_of", 1))
        if low is not None:
            low = (math.ceil(low / step) if "ge" in bounds else math.floor(low / step) + 1) * step
        if high is not None:
            high = (math.floor(high / step) if "le" in bounds else math.ceil(high / step) - 1) * step
        return cls(low, high, step)

    def ends(self) -> list[float]:
        """The finite ends."""
        return [end for end in (self.low, self.high) if end is not None]

    def inside(self) -> float:
        """The middle between two ends, else a step (1.0 for floats) from the only one, or from 0."""
        step = self.step or 1.0
        if self.low is not None and self.high is not None:
            half = (self.high - self.low) / 2
            return self.low + (half if self.step is None else half // step * step)
        return self.high - step if self.high is not None else (self.low or 0) + step
