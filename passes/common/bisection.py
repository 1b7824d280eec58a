"""Bisection over integers, which budgets of channels, ranks and layers share, and the multiple of channels."""

from __future__ import annotations

from collections.abc import Callable


def first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least integer above ``low``, at most ``high``, for which something holds that stays true from there on.

    It is taken to hold for ``high``, and not for ``low``; neither is asked.
    """
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
