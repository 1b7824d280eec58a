"""What a rewritten region is run on: sizes at their ends, and patterns of numbers that look for trouble."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.numerics.edge_values import NOT_FINITE, PATTERNS, edge_tensor
from fxopt.numerics.probe_inputs import example_sizes, size_with
from fxopt.pass_manager.region import Region, constants_in, is_size
from fxopt.pass_manager.region_work import Work

_ELEMENTS = 2**17
"""Elements of the leaves in the larger batch, where the batch may vary."""

_HEAVY = 2**14
"""Elements of the leaves at a batch of one from which on the rows of one batch hold the patterns, and few runs are made."""

_WORK = 2**26
"""Multiplications that a batch that holds the patterns may cost: a region that is dear gets fewer rows ..."""

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

    def __init__(self, before: Program, work: Work, *, finite: bool) -> None:
        self._before, self._work, self._finite = before, work, finite
        self._example = example_sizes(before)
        names = before.dims()
        self._batch = [s for s in self._example if names.get(str(s)) == "batch"]
        self._leaf_values = dict(zip(before.inputs(), before.example_leaves(), strict=True))

    def of(self, region: Region) -> Iterator[Trial]:
        """The trials of a region, those most likely to tell first."""
        low = self._at(dict.fromkeys(self._batch, 1))
        two = self._at(dict.fromkeys(self._batch, 2))
        many = [self._at(dict.fromkeys(self._batch, n)) for n in self._batches(region)]
        seed = 0
        yield Trial(low, "random numbers", seed := seed + 1)  # the cheapest that tells most of what is unequal
        for sizes in many if self._batch else []:
            yield Trial(sizes, None, seed := seed + 1)
        for pattern in self._singles(region):
            yield Trial(low, pattern, seed := seed + 1)
        heavy = self._is_heavy(region)
        for pattern in ("random numbers", "edge values") if self._batch and not heavy else ():
            yield Trial(two, pattern, seed := seed + 1)
        for sizes in self._ends():
            yield Trial(sizes, "random numbers", seed := seed + 1)
        if self._finite:
            yield Trial(many[0] if self._batch and not heavy else low, NOT_FINITE, seed := seed + 1)
        sizes = many[-1] if self._batch else low
        for _ in range(self._table_runs(region, sizes)):
            yield Trial(sizes, "random numbers", seed := seed + 1)

    def ordinary(self, region: Region) -> list[Trial]:
        """Trials in the range of a network."""
        if self._is_heavy(region):
            return [Trial(self._at(dict.fromkeys(self._batch, 1)), "random numbers", 1001)]
        sizes = self._at({s: self._batches(region)[0] for s in self._batch})
        return [Trial(sizes, "random numbers", seed) for seed in (1001, 1002)]

    def rows(self, trial: Trial) -> int:
        """Examples in the batch of a trial; 1 where that is fixed."""
        return max((trial.sizes[s] for s in self._batch), default=1)

    def _singles(self, region: Region) -> tuple[str, ...]:
        """Patterns of which each fills an example, or the batch where that is fixed."""
        if self._is_heavy(region):
            return ("zeros",) if self._batch else PATTERNS[:_LEAST_ROWS]
        return ("random numbers", "edge values", "zeros", "negative numbers") if self._batch else PATTERNS

    def _is_heavy(self, region: Region) -> bool:
        return self._row(region) > _HEAVY or self._work.of(region) * len(PATTERNS) > _WORK

    def leaves(self, region: Region, trial: Trial) -> dict[fx.Node, Any]:
        """Values of a region's leaves. Raises TypeError where a size depends on values."""
        values: dict[fx.Node, Any] = {}
        constants = constants_in((*region.new, *region.old))
        for i, leaf in enumerate(region.leaves):
            val = leaf.meta["val"]
            if is_size(leaf):
                values[leaf] = size_with(val, trial.sizes)
            elif not isinstance(val, torch.Tensor):
                given = self._leaf_values[leaf]
                values[leaf] = size_with(val, trial.sizes) if isinstance(val, torch.SymInt) else given
            else:
                shape = [size_with(n, trial.sizes) for n in val.shape]
                values[leaf] = self._tensor(region, leaf, shape, trial, constants, i)
        return values

    def _tensor(
        self, region: Region, leaf: fx.Node, shape: list[int], trial: Trial, constants: list[float], i: int
    ) -> torch.Tensor:
        dtype: torch.dtype = leaf.meta["val"].dtype
        example = self._leaf_values.get(leaf)
        if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool or example is None:
            return edge_tensor(shape, dtype, trial.pattern, constants, 100 * trial.seed + i)
        rows = _table_rows(region)
        if rows:  # every row, in one trial or one trial after the other
            count = math.prod(shape)
            return ((torch.arange(count) + trial.seed * count) % min(rows)).reshape(shape).to(dtype)
        known = example.flatten()
        random = torch.Generator().manual_seed(trial.seed)
        return known[torch.randint(len(known), shape, generator=random)] if len(known) else example

    def _at(self, sizes: dict[sympy.Symbol, int]) -> dict[sympy.Symbol, int]:
        return self._example | {s: self._within(s, n) for s, n in sizes.items()}

    def _within(self, symbol: sympy.Symbol, size: int) -> int:
        low, high = self._before.ranges.get(str(symbol), (1, None))
        return max(low, min(size, high) if high is not None else size)

    def _batches(self, region: Region) -> list[int]:
        row = self._row(region)
        work = max(1, self._work.of(region))
        usual = min(131, max(len(PATTERNS), _ELEMENTS // max(row, 1)), max(_LEAST_ROWS, _WORK // work))
        named = {int(c) + 1 for c in constants_in(region.new) if c == int(c) and usual <= c < 10_000}
        return [usual, *sorted(n for n in named if n * row <= _MOST_ELEMENTS and n * work <= 8 * _WORK)[-2:]]

    def _row(self, region: Region) -> int:
        """Elements of the leaves at a batch of one."""
        values = [leaf.meta["val"] for leaf in region.leaves]
        sizes = self._at(dict.fromkeys(self._batch, 1))
        shapes = [v.shape for v in values if isinstance(v, torch.Tensor)]
        return sum(math.prod(size_with(n, sizes) for n in shape) for shape in shapes)

    def _ends(self) -> Iterator[dict[sympy.Symbol, int]]:
        """Dynamic dims other than the batch, at the least that they may be, beyond the example, and at the most."""
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
        rows = _table_rows(region)
        values = [leaf.meta["val"] for leaf in region.leaves]
        counts = [
            math.prod(size_with(n, sizes) for n in v.shape)
            for v in values
            if isinstance(v, torch.Tensor) and not v.is_floating_point()
        ]
        return min(_TABLE_RUNS, math.ceil(max(rows) / max(1, counts[0]))) if rows and counts else 0


def _table_rows(region: Region) -> list[int]:
    """Rows of the tables that a region looks values up in."""
    tables = [n for n in region.old if n.op == "call_function" and op_name(n).startswith("aten.embedding")]
    return [int(arguments(n)["weight"].meta["val"].shape[0]) for n in tables]
