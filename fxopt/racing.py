"""Many candidates timed in one run: a look at all, and a long one at those that may be the fastest."""

from __future__ import annotations

from collections.abc import Callable

from fxopt.measure import Timing, interleave

_HEATS = ((3, 3.0), (5, 1.3))
"""Blocks of each heat, and how many times the best a candidate may take to stay in the race; by the quickest block of
each, as other work on the machine makes a block slower, never quicker."""
_FINAL = 11
_TIE = 0.97
"""Ratio of medians above which two candidates count as equally fast."""


def race(runs: dict[str, Callable[[], object]]) -> dict[str, Timing]:
    """Time callables interleaved in blocks; who is far behind after a heat drops out. The last timing of each is returned."""
    timings: dict[str, Timing] = {}
    left = runs
    for blocks, behind in _HEATS:
        timings |= interleave(left, blocks=blocks)
        quickest = {name: min(timings[name].blocks_ms) for name in left}
        best = min(quickest.values())
        left = {name: run for name, run in left.items() if quickest[name] <= behind * best}
    return timings | interleave(left, blocks=_FINAL)


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
