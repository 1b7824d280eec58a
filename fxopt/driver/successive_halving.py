"""Successive halving: short rounds drop slow candidates, the finalists are timed longer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fxopt.runtime.timing import Timing

_HEATS = ((3, 3.0), (5, 1.3))
"""Blocks of each round, and the ratio to the best up to which a candidate stays in; by the fastest block of each, as other
load only makes a block slower."""
_FINAL = 11
_TIE = 0.97
"""Ratio of medians above which two candidates count as equally fast."""


Timer = Callable[[list[str], int], dict[str, Timing]]
"""Times candidates side by side, by name, in so many blocks."""


def race(names: Iterable[str], time: Timer) -> dict[str, Timing]:
    """Time candidates in rounds; those far behind after one drop out. Returns the last timing of each."""
    timings: dict[str, Timing] = {}
    left = list(names)
    for blocks, behind in _HEATS:
        timings |= time(left, blocks)
        quickest = {name: min(timings[name].blocks_ms) for name in left}
        best = min(quickest.values())
        left = [name for name in left if quickest[name] <= behind * best]
    return timings | time(left, _FINAL)


def ranked(timings: dict[str, Timing]) -> list[str]:
    """Names, the fastest first: those timed the longest, and equally fast ones in the given order."""
    left, order = list(timings), []
    while left:
        longest = max(len(timings[name].blocks_ms) for name in left)
        last = [name for name in left if len(timings[name].blocks_ms) == longest]
        best = min(last, key=lambda name: timings[name].ms.median)
        order.append(next(name for name in last if timings[best].ratio(timings[name]).median >= _TIE))
        left.remove(order[-1])
    return order
