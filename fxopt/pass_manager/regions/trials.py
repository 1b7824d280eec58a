"""The trials of a rewritten region: extreme sizes, and patterns of edge cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import sympy
import torch

from fxopt.ir.program import Program
from fxopt.numerics.edge_values import NOT_FINITE, PATTERNS
from fxopt.numerics.probe_inputs import example_sizes, size_with
from fxopt.pass_manager.regions.profile import Profile, Profiler
from fxopt.pass_manager.regions.region import Region, constants_in

_ELEMENTS = 2**16
"""Elements of the leaves in the larger batch, where the batch may vary."""

_MOST_ROWS = 131
"""Examples in the larger batch, unless a number in the graph suggests more."""

_WORK = 2**26
"""Multiplications that a batch with all patterns may cost: an expensive region gets fewer rows ..."""

_LEAST_ROWS = 4
"""... but never fewer than these: random, large and small numbers, and edge values."""

_MOST_ELEMENTS = 2**22
"""Elements of the leaves in a batch that a number in the graph suggests."""

_TABLE_RUNS = 64


@dataclass(frozen=True)
class Trial:
    """Sizes of the dynamic dims and a pattern; None has the patterns in turn along the first dim."""

    sizes: dict[sympy.Symbol, int]
    pattern: str | None
    seed: int

    def __str__(self) -> str:
        return "mixed rows" if self.pattern is None else self.pattern


class Trials:
    """The trials of regions of one program."""

    def __init__(self, before: Program, profiler: Profiler, *, finite: bool) -> None:
        self._before, self._profiler, self._finite = before, profiler, finite
        self._example = example_sizes(before)
        names = before.dims()
        self._batch = [s for s in self._example if names.get(str(s)) == "batch"]

    def profile(self, region: Region) -> Profile:
        """The region's profile, at a batch of one."""
        return self._profiler.of(region, self._of_batch(1))

    def of(self, region: Region, *, alike: bool = False) -> Iterator[Trial]:
        """The trials of a region, those most likely to fail first.

        ``alike``: another region of the same form passed all of its own: only the weights differ, and few trials are enough.
        """
        low = self._of_batch(1)
        yield Trial(low, "random numbers", 1)  # the cheapest, which most errors fail
        if self.profile(region).affine:
            rest = self._of_affine()
        elif alike:
            rest = self._mixed(region)
        else:
            rest = self._thorough(region)
        for seed, (sizes, pattern) in enumerate(rest, 2):
            yield Trial(sizes, pattern, seed)

    def ordinary(self) -> Trial:
        """A trial in the range of a network."""
        return Trial(self._of_batch(2), "random numbers", 1001)

    def rows(self, trial: Trial) -> int:
        """Examples in the batch of a trial; 1 where that is fixed."""
        return max((trial.sizes[s] for s in self._batch), default=1)

    def _of_affine(self) -> Iterator[tuple[dict[sympy.Symbol, int], str | None]]:
        if self._batch:
            yield self._of_batch(2), None
        for sizes in self._ends():
            yield sizes, "random numbers"
        if self._finite:
            yield self._of_batch(1), NOT_FINITE

    def _mixed(self, region: Region) -> Iterator[tuple[dict[sympy.Symbol, int], str | None]]:
        """The patterns once: in the rows of a batch, or one after the other where that is fixed."""
        if self._batch:
            for rows in self._batches(region):
                yield self._of_batch(rows), None
        else:
            for pattern in PATTERNS[1:_LEAST_ROWS] if self.profile(region).heavy else PATTERNS[1:]:
                yield self._of_batch(1), pattern

    def _thorough(self, region: Region) -> Iterator[tuple[dict[sympy.Symbol, int], str | None]]:
        heavy = self.profile(region).heavy
        low = self._of_batch(1)
        yield from self._mixed(region)
        if self._batch:
            for pattern in ("zeros",) if heavy else ("edge values", "zeros", "negative numbers"):
                yield low, pattern
            for pattern in () if heavy else ("random numbers", "edge values"):
                yield self._of_batch(2), pattern
        for sizes in self._ends():
            yield sizes, "random numbers"
        if self._finite:
            yield low if heavy else self._of_batch(len(PATTERNS)), NOT_FINITE
        sizes = self._of_batch(self._batches(region)[-1])
        for _ in range(self._table_runs(region, sizes)):
            yield sizes, "random numbers"

    def _batches(self, region: Region) -> list[int]:
        """Rows of the larger batches: what is affordable, and more where a number in the new calls suggests it."""
        profile = self.profile(region)
        elements, work = max(1, profile.elements), max(1, profile.work)
        affordable = max(_LEAST_ROWS, min(_ELEMENTS // elements, _WORK // work))
        usual = min(_MOST_ROWS, max(len(PATTERNS), affordable) if not profile.heavy else affordable)
        named = {int(c) + 1 for c in constants_in(region.new) if c == int(c) and usual <= c < 10_000}
        return [usual, *sorted(n for n in named if n * elements <= _MOST_ELEMENTS and n * work <= 8 * _WORK)[-2:]]

    def _of_batch(self, rows: int) -> dict[sympy.Symbol, int]:
        return self._at(dict.fromkeys(self._batch, rows))

    def _at(self, sizes: dict[sympy.Symbol, int]) -> dict[sympy.Symbol, int]:
        return self._example | {s: self._within(s, n) for s, n in sizes.items()}

    def _within(self, symbol: sympy.Symbol, size: int) -> int:
        low, high = self._before.ranges.get(str(symbol), (1, None))
        return max(low, min(size, high) if high is not None else size)

    def _ends(self) -> Iterator[dict[sympy.Symbol, int]]:
        """Dynamic dims other than the batch, at their minimum, beyond the example, and at their maximum."""
        others = {s: n for s, n in self._example.items() if s not in self._batch}
        if not others:
            return
        highs = {s: self._before.ranges.get(str(s), (1, None))[1] for s in others}
        two = dict.fromkeys(self._batch, 2)
        for n in (1, 2):
            yield self._at(two | dict.fromkeys(others, n))
        yield self._at(two | {s: size + i for i, (s, size) in enumerate(others.items(), 1)})
        if all(high is not None and high <= 4 * n for high, n in zip(highs.values(), others.values(), strict=True)):
            yield self._at(two | {s: high for s, high in highs.items() if high is not None})

    def _table_runs(self, region: Region, sizes: dict[sympy.Symbol, int]) -> int:
        """Runs in which every row of a table is read."""
        tables = self.profile(region).tables
        values = [leaf.meta["val"] for leaf in region.leaves]
        counts = [
            math.prod(size_with(n, sizes) for n in v.shape)
            for v in values
            if isinstance(v, torch.Tensor) and not v.is_floating_point()
        ]
        return min(_TABLE_RUNS, math.ceil(max(tables) / max(1, counts[0]))) if tables and counts else 0
