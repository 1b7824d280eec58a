"""Both sides of a region run on all of its trials, and compared."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import Trait, has
from fxopt.ir.program import Program
from fxopt.numerics.edge_values import NOT_FINITE, PATTERNS, edge_tensor
from fxopt.pass_manager.regions.error import errors_of, is_rounding, largest_of, merged_special, nudged, of_pattern
from fxopt.pass_manager.regions.form import form_of
from fxopt.pass_manager.regions.leaf_values import LeafValues
from fxopt.pass_manager.regions.profile import Profiler
from fxopt.pass_manager.regions.region import Region, is_size
from fxopt.pass_manager.regions.run import NewFails, OldFails, RegionRun
from fxopt.pass_manager.regions.trials import Trial, Trials
from fxopt.pass_manager.regions.value_range import fills_ranges
from fxopt.pass_manager.regions.work import PER_CALL, Work

_RUNS = 12
"""Checks are expensive once they cost as much as this many runs of the program on one example ..."""

_LEAST_WORK = 3 * 10**9
"""... and this many multiplications: a comparison end to end is cheaper then."""


@dataclass(frozen=True)
class Failure:
    """A region whose sides differ, by how much, and on which values."""

    region: Region
    error: float
    on: str
    how: str = "in float64"


class RegionCheck:
    """Checks regions between two float64 programs; ``error`` is the largest error of a check that passed."""

    def __init__(
        self, before: Program, after: Program, draws: dict[str, str], tolerance: float, *, finite: bool
    ) -> None:
        work = Work(before)
        self._programs, self._tolerance = (before, after), tolerance
        self._run, self._values = RegionRun(before, after, draws), LeafValues(before)
        self._trials = Trials(before, Profiler(before, after, work), finite=finite)
        self._left = _RUNS * (work.program + PER_CALL * len(before.graph.nodes)) + _LEAST_WORK
        self._held: set[Hashable] = set()
        self.error = 0.0

    @property
    def is_dear(self) -> bool:
        """Whether checks have cost so much that a comparison end to end is cheaper than more of them."""
        return self._left < 0

    def failure(self, region: Region) -> Failure | None:
        """The first trial in which the sides of a region differ; None where none does."""
        form = form_of(region, *self._programs)
        ran = False
        for trial in self._trials.of(region, alike=form in self._held):
            try:
                found = self._compare(region, self._leaves(region, trial), trial)
            except (OldFails, TypeError):
                continue
            if found is not None:
                return found
            ran = True
        if not ran:
            return Failure(region, math.nan, "no values, as the program before runs on none that were tried")
        self._held.add(form)
        return None

    def holds_within(self, region: Region, extended: Region) -> bool:
        """Whether the sides agree on edge values between the least and the largest inputs that reach a region.

        ``extended`` is the same region, extended upwards, in which they agree.
        """
        inner = set(region.leaves) & set(extended.old)
        if not inner or not fills_ranges(inner, set(extended.old) - set(region.old)):
            return True
        seen: dict[fx.Node, list[torch.Tensor]] = {leaf: [] for leaf in inner}
        for trial in self._trials.of(extended):
            if trial.pattern == NOT_FINITE:
                continue
            try:
                values = self._run.old(extended, self._leaves(extended, trial))
            except (OldFails, TypeError):
                continue
            for leaf in inner:
                seen[leaf].append(values[leaf])
            if not self._agrees_between(region, {leaf: values[leaf] for leaf in region.leaves}, seen, trial):
                return False
        return True

    def _agrees_between(
        self, region: Region, leaves: dict[fx.Node, Any], seen: dict[fx.Node, list[torch.Tensor]], trial: Trial
    ) -> bool:
        constants = self._trials.profile(region).constants
        for i, (leaf, samples) in enumerate(seen.items()):
            value = samples[-1]
            if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.dim():
                continue
            every = torch.cat([s for s in samples if s.shape[1:] == value.shape[1:]]).nan_to_num(0.0, 0.0, 0.0)
            made = edge_tensor(value.shape, value.dtype, "edge values", constants, 7000 + trial.seed + i)
            leaves[leaf] = made.clamp(every.amin(0), every.amax(0))
        try:
            return self._compare(region, leaves, Trial(trial.sizes, "edge values", trial.seed)) is None
        except OldFails:
            return True

    def _leaves(self, region: Region, trial: Trial) -> dict[fx.Node, Any]:
        profile = self._trials.profile(region)
        calls = len(region.old) + len(region.new)
        self._left -= profile.work * self._trials.rows(trial) + PER_CALL * calls
        return self._values.of(region, trial, profile)

    def _compare(self, region: Region, leaves: dict[fx.Node, Any], trial: Trial) -> Failure | None:
        old = self._run.old(region, leaves)
        try:
            new = self._run.new(region, old)
        except NewFails as failed:
            return Failure(region, math.inf, f"{trial}, where it no longer runs: {failed}")
        rows = _rows_of(leaves) if trial.pattern is None else 0
        seen = merged_special if trial.pattern == NOT_FINITE else lambda value: value
        moved: list[Any] | None = None
        for error, pattern in errors_of(seen(old[region.was]), seen(new[region.goal]), rows):
            if error <= self._tolerance:
                self.error = max(self.error, error)
                continue
            if moved is None:
                moved = self._moved(region, leaves)
            values = (old[region.was], new[region.goal], *moved)
            want, got, *others = (of_pattern(seen(v), rows, pattern) for v in values)
            largest = largest_of([*old.values(), *new.values()], rows, pattern)
            if not is_rounding(want, got, others, largest):
                return Failure(region, error, str(trial) if pattern is None else PATTERNS[pattern])
        return None

    def _moved(self, region: Region, leaves: dict[fx.Node, Any]) -> list[Any]:
        """Results of the old side for leaves perturbed as by rounding; none where nothing is rounded."""
        calls = [node for node in (*region.old, *region.new) if node.op == "call_function" and not is_size(node)]
        found: list[Any] = []
        if all(has(node, Trait.UNROUNDED) for node in calls):
            return found
        for nearby in nudged(leaves):
            with contextlib.suppress(OldFails):
                found.append(self._run.old(region, nearby)[region.was])
        return found


def _rows_of(leaves: dict[fx.Node, Any]) -> int:
    first = {v.shape[0] for v in leaves.values() if isinstance(v, torch.Tensor) and v.dim()}
    return max(first, default=0)
