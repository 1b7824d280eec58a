"""A limit of latency, measured on the target, and the fewest steps that meet it."""

from __future__ import annotations

from collections.abc import Callable

from fxopt import Context, Program
from fxopt.automl.goals import Limit
from fxopt.driver.time_build import built_times
from fxopt.errors import OptionError
from fxopt.passes.common.bisection import first

_BLOCKS, _BLOCK_MS = 15, 5.0  # short blocks are seldom interrupted by whatever else runs
_SURE = 2
"""How many times as many blocks the final choice is timed with: a search prefers the luckiest of its timings."""


def read_latency(text: str | None, who: str) -> Limit | None:
    """The limit that a pass was given as ``0.5x``, half of the whole program's latency, or as ``3ms``; None without one.

    Raises OptionError for anything else, a number without a unit included, which may be meant either way.
    """
    if text is None:
        return None
    if not text.strip().endswith(("x", "ms")):
        raise OptionError(
            f"{who}: latency takes '0.5x' for half of the whole program's, or '3ms' for milliseconds, got {text!r}"
        )
    return Limit.read("latency", text)


def share_left(limit: Limit, program: Program, context: Context, who: str) -> float:
    """A limit as a share of the latency of ``program``, which is timed where the limit is in milliseconds."""
    if limit.relative:
        return limit.bound
    return limit.bound / built_times({"": program}, context, who)[""].ms.median


def fewest_steps(
    program: Program, context: Context, share: float, steps: int, after: Callable[[int], Program], who: str
) -> tuple[int, float]:
    """The fewest steps that bring a program's latency down to ``share`` of what it is, and the share that they reach.

    ``after`` makes the program that so many steps leave, each of which costs less than the one before. What is chosen is
    timed once more, longer, and steps are added while it is too slow. Where all ``steps`` are too few, the share reached is
    above the one asked for.
    The two programs are timed side by side in one run, so that a load of the machine slows both.
    """

    def reached(count: int, blocks: int = _BLOCKS) -> float:
        times = built_times({"whole": program, "less": after(count)}, context, who, blocks=blocks, block_ms=_BLOCK_MS)
        return times["less"].ratio(times["whole"]).median

    if share >= 1 or not steps:
        return 0, 1.0
    least = reached(steps)
    if least > share:
        return steps, least
    count = first(-1, steps, lambda count: reached(count) <= share)
    while (ratio := reached(count, _SURE * _BLOCKS)) > share and count < steps:
        count = min(steps, count + max(1, steps // 20))
    return count, ratio
