"""The time and the trials that a search has."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

_PART = 1 / 6
"""Part of the time of a search that one rung may take: for more, several other recipes could be tried."""


@dataclass
class Until:
    """When a search is over: at a time of :func:`time.monotonic`, or after so many trials; None is no limit.

    ``seconds`` is the time of the whole search.
    """

    deadline: float | None = None
    trials: int | None = None
    seconds: float | None = None

    def over(self, finished: int) -> bool:
        """Whether it is."""
        return (self.deadline is not None and time.monotonic() >= self.deadline) or (
            self.trials is not None and finished >= self.trials
        )

    def has_time_for(self, seconds: float, *, at_any_price: bool = False) -> bool:
        """Whether a rung of so many seconds may be climbed: there is as much left, and it is not too large a part of all."""
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        part = math.inf if at_any_price or self.seconds is None else self.seconds * _PART
        return seconds <= min(left, part)
