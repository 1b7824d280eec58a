"""Many candidates timed in one run: a look at all, and a long one at those that may be the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fxopt.runtime.timing import Timing

_HEATS = ((3, 3.0), (5, 1.3))
"""Blocks of each heat, and how many times the best a candidate may take to stay in the race; by the quickest block of
each, as other work on the machine makes a block slower, never quicker."""
_FINAL = 11
_TIE = 0.97
"""Ratio of medians above which two candidates count as equally fast."""


Timer = Callable[[list[str], int], dict[str, Timing]]
"""Times candidates side by side, by name, in so many blocks."""


def race(names: Iterable[str], time: Timer) -> dict[str, Timing]:
    """Time candidates in heats; who is far behind after one drops out. The last timing of each is returned."""
    timings: dict[str, Timing] = {}
    left = list(names)
    for blocks, behind in _HEATS:
        timings |= time(left, blocks)
        quickest = {name: min(timings[name].blocks_ms) for name in left}
        best = min(quickest.values())
        left = [name for name in left if quickest[name] <= behind * best]
    return timings | time(left, _FINAL)


def ranked(timings: dict[str, Timing]) -> list[str]:
    """Names of a race, the fastest first: those who were timed the longest, and of equally fast ones in the order given."""
    left, order = list(timings), []
    while left:
        longest = max(len(timings[name].blocks_ms) for name in left)
        last = [name for name in left if len(timings[name].blocks_ms) == longest]
        best = min(last, key=lambda name: timings[name].ms.median)
        order.append(next(name for name in last if timings[best].ratio(timings[name]).median >= _TIE))
        left.remove(order[-1])
    return order
