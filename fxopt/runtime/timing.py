"""Timing of candidates side by side, interleaved in blocks with pauses."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fxopt.support.observed import is_volatile

PAUSE = 0.03
"""Seconds of sleep before each block. Idle worker threads of a runtime spin for a while and would slow the next one."""

_brief: ContextVar[bool] = ContextVar("brief", default=False)


@contextlib.contextmanager
def briefly() -> Iterator[None]:
    """Inside, time two blocks of one call without pauses: for tests that need timing to run, not its results."""
    token = _brief.set(True)
    try:
        yield
    finally:
        _brief.reset(token)


@dataclass(frozen=True)
class Quartiles:
    """Median with lower and upper quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Quartiles of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call, the mean of each block in the order of the rounds."""

    blocks_ms: tuple[float, ...]

    @property
    def ms(self) -> Quartiles:
        """Milliseconds a call over the blocks."""
        return Quartiles.of(self.blocks_ms)

    def ratio(self, base: Timing) -> Quartiles:
        """Ratio to a timing of the same run, taken round by round: a machine that slows down slows both."""
        return Quartiles.of([a / b for a, b in zip(self.blocks_ms, base.blocks_ms, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a report."""
        ms = self.ms
        return {"median_ms": ms.median, "low_ms": ms.low, "high_ms": ms.high, "blocks": len(self.blocks_ms)}


def interleave(runs: dict[str, Callable[[], object]], *, blocks: int = 11, block_ms: float = 40.0) -> dict[str, Timing]:
    """Time callables side by side in one run.

    Each round gives every candidate one block: a pause, two warm calls, then as many timed calls as fill about
    ``block_ms``. The order differs from round to round: a candidate may leave spinning threads and its own cache contents to
    the next one. A block's figure is its mean.
    """
    is_volatile("it times programs")
    if brief := _brief.get():
        blocks, block_ms = min(blocks, 2), 0.0
    calls = {name: max(1, min(200, int(block_ms / 1000 / max(_least(run), 1e-6)))) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    orders = _orders(list(runs))
    for i in range(blocks):
        for name in orders[i % len(orders)]:
            time.sleep(0.0 if brief else PAUSE)
            runs[name]()
            runs[name]()
            samples[name].append(_seconds(runs[name], calls[name]) * 1000)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _orders(names: list[str]) -> list[list[str]]:
    """Orders in which each name follows every other equally often (Williams 1949: designs balanced for carry-over)."""
    count = len(names)
    zigzag = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(count)]
    orders = [[names[(first + step) % count] for step in zigzag] for first in range(count)]
    return orders + [order[::-1] for order in orders] if count % 2 else orders


def fastest(runs: dict[str, Callable[[], object]], seconds: float) -> str:
    """Name of the fastest candidate, timed side by side for about ``seconds``; the first unless another wins clearly.

    Another wins if it beats the first in three rounds of four, so that noise changes nothing.
    """
    block_ms = 40.0
    blocks = int(seconds / (len(runs) * (block_ms / 1000 + PAUSE)))
    timings = interleave(runs, blocks=max(3, blocks), block_ms=block_ms)
    first, best = next(iter(runs)), min(runs, key=lambda name: timings[name].ms.median)
    return best if timings[best].ratio(timings[first]).high < 1 else first


def _least(run: Callable[[], object]) -> float:
    """Seconds of a call once warm: the first calls start threads and fill caches, and take up to a hundred times as long."""
    _seconds(run, 2)
    return min(_seconds(run, 1) for _ in range(3))


def _seconds(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls
