"""The goals of a search: limits, absolute or relative to the original, and objectives to minimize."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fxopt.errors import OptionError, UnknownNameError

Quantity = Literal["metric_drop", "noise_db", "latency_ms", "file_bytes", "memory_bytes", "macs", "params", "cycles"]
QUANTITIES: dict[Quantity, str] = {
    "metric_drop": "loss of the metric, in its own unit",
    "noise_db": "error of the outputs in dB relative to them, the negative SQNR; for models without data",
    "latency_ms": "median milliseconds a call on the target",
    "file_bytes": "size of the compiled model",
    "memory_bytes": "planned bytes of weights and values",
    "macs": "multiply-accumulates for the example inputs",
    "params": "elements of weights",
    "cycles": "estimated cycles a call, where latency cannot be measured and the backend estimates them",
}
"""What can be limited or minimized. All are better when smaller."""
_SHORT = {"metric": "metric_drop", "drop": "metric_drop", "noise": "noise_db", "latency": "latency_ms", "size": "file_bytes",
          "bytes": "file_bytes", "memory": "memory_bytes"}  # fmt: skip
_SPAN = {"metric_drop": 0.01, "noise_db": 6.0}
"""Differences that count as much as a factor of e of another quantity: one point, half the error."""

LEARNED = frozenset(_SPAN)
"""Quantities that training changes."""

Figures = Mapping[str, float]
"""Quantities by name, as far as they are known."""


def quantity(name: str) -> Quantity:
    """A quantity by its name or a short one, such as ``latency``. Raises UnknownNameError."""
    full = _SHORT.get(name, name)
    for known in QUANTITIES:
        if full == known:
            return known
    raise UnknownNameError("quantity", name, [*QUANTITIES, *_SHORT])


@dataclass(frozen=True)
class Limit:
    """The largest value of a quantity that is allowed; with ``relative`` as a multiple of the original's."""

    what: Quantity
    bound: float
    relative: bool = False

    @classmethod
    def read(cls, what: str, text: str | float) -> Limit:
        """Read ``0.5x``, half the original's, or a number in the quantity's own unit, ``3ms`` for 3. Raises OptionError."""
        name, given = quantity(what), str(text).strip()
        relative = given.endswith("x")
        number = given.removesuffix("ms") if name == "latency_ms" else given
        try:
            bound = float(number.removesuffix("x").replace("_", ""))
        except ValueError:
            bound = math.nan
        wrong = not math.isfinite(bound) or (bound <= 0 and name not in _SPAN) or (relative and name in _SPAN)
        if wrong:
            wanted = "a number" if name in _SPAN else "a number above 0, or 0.5x for half of the original's"
            raise OptionError(f"limit {what}: takes {wanted}, got {text!r}")
        return cls(name, bound, relative)

    def absolute(self, original: Figures) -> float:
        """The bound in the quantity's own unit."""
        return self.bound * original[self.what] if self.relative else self.bound

    def violation(self, figures: Figures, original: Figures) -> float | None:
        """How far beyond the bound, scaled alike for all quantities: at most 0 where it is kept; None where not known.

        The logarithm of the ratio, or for what may be 0 or negative the difference over what counts as a factor of e.
        """
        if self.what not in figures:
            return None
        bound = self.absolute(original)
        if self.what in _SPAN:
            return (figures[self.what] - bound) / _SPAN[self.what]
        return math.log(max(figures[self.what], 1e-12) / bound)

    def __str__(self) -> str:
        return f"{self.what} {self.bound:g}{'x' if self.relative else ''}"


@dataclass(frozen=True)
class Goals:
    """Limits that every answer keeps, and the two or three quantities to trade off."""

    limits: tuple[Limit, ...]
    objectives: tuple[Quantity, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(set(self.objectives)) == len(self.objectives) <= 3:
            raise OptionError(
                f"a search takes two or three different objectives, got {', '.join(self.objectives) or 'none'}"
            )

    def violations(self, figures: Figures, original: Figures) -> dict[str, float]:
        """By quantity how far beyond its limit it is, see :meth:`Limit.violation`, for known figures."""
        found = ((limit.what, limit.violation(figures, original)) for limit in self.limits)
        worst: dict[str, float] = {}
        for what, value in found:
            if value is not None:
                worst[what] = max(value, worst.get(what, -math.inf))
        return worst

    def bound(self, what: str, original: Figures) -> float:
        """The least of the limits of a quantity, in its own unit; inf without one."""
        return min((limit.absolute(original) for limit in self.limits if limit.what == what), default=math.inf)

    def shares(self, original: Figures) -> dict[str, float]:
        """What the limits of MACs and parameters leave of the original, where that is not all."""
        shares = {
            what: self.bound(what, original) / original[what] for what in ("macs", "params") if original.get(what)
        }
        return {what: share for what, share in shares.items() if share < 1}

    def feasible(self, figures: Figures, original: Figures) -> bool:
        """Whether all limits are kept; one whose quantity is not known is not."""
        return all((v := limit.violation(figures, original)) is not None and v <= 1e-9 for limit in self.limits)

    def untrained(self, figures: Figures) -> tuple[float, ...]:
        """Of the objectives those that training does not change, as :meth:`values` has them."""
        values = self.values({"metric_drop": 0.0, "noise_db": 0.0, **figures})
        return tuple(v for what, v in zip(self.objectives, values, strict=True) if what not in LEARNED)

    def values(self, figures: Figures) -> tuple[float, ...]:
        """The objectives, latency, sizes and counts as logarithms, so that a ratio counts the same at every size."""
        return tuple(
            figures[what] if what in _SPAN else math.log(max(figures[what], 1e-12)) for what in self.objectives
        )
