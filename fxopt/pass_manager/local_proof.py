"""Local proofs: each rewritten region is run by itself, on many values of its own border.

Values that are equal by construction are recognised (:mod:`fxopt.pass_manager.value_numbers`), so that only what a pass
rewrote is left. As a region has nothing before and behind it, depth hides no error, and the cost follows the change. The
scheme is that of combinational equivalence checking with internal cut points (Kuehlmann and Krohm 1997).

A region may rely on what reaches it, as one behind a relu on signs. Where it fails on free values, it is run from farther
up, so that its values are those that the ops above it make; and within the least and the largest of these at each
place, edge values are tried again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxopt.ir.alias_analysis import written
from fxopt.ir.op_table import Trait, family, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.numerics.edge_values import NOT_FINITE, PATTERNS, edge_tensor
from fxopt.numerics.float64 import float64_default
from fxopt.pass_manager.region import Cutter, Region, constants_in
from fxopt.pass_manager.region_run import NewFails, OldFails, RegionRun, error_of, room_for_rounding
from fxopt.pass_manager.region_trials import Trial, Trials
from fxopt.pass_manager.region_work import Work
from fxopt.pass_manager.value_numbers import ValueNumbers, candidates

_DEPTHS = (12, 40)
"""By how many nodes a region that fails is extended, one after the other."""

_RUNS = 12
"""Regions are no longer extended once proofs cost as much as this many runs of the program on one example ..."""

_LEAST_WORK = 3 * 10**9
"""... and this many multiplications: a comparison end to end is cheaper then."""

_PER_CALL = 10**5
"""A call takes at least as long as this many multiplications."""


@dataclass(frozen=True)
class Failure:
    """A region whose sides differ, by how much, and on which values."""

    region: Region
    error: float
    on: str
    how: str = "in float64"


@dataclass
class LocalProof:
    """What was proved: the regions, the largest error among them, or where it failed."""

    proved: bool
    regions: list[Region] = field(default_factory=list)
    error: float = 0.0
    failure: Failure | None = None


def prove_locally(
    before: Program, after: Program, draws: dict[str, str], tolerance: float, *, finite: bool
) -> LocalProof | None:
    """Prove the outputs of two float64 programs equal; None where that is not for regions, as memory is written to.

    ``draws`` has the keys of draws by node name; with ``finite`` NaN and infinities are tried too.
    """
    if any(written(node) for program in (before, after) for node in program.graph.nodes):
        return None
    with float64_default(), torch.no_grad():
        return _Prover(before, after, draws, tolerance, finite=finite).prove()


class _Prover:
    def __init__(
        self, before: Program, after: Program, draws: dict[str, str], tolerance: float, *, finite: bool
    ) -> None:
        self._before, self._after, self._tolerance = before, after, tolerance
        self._numbers = ValueNumbers(before, after, draws)
        self._cutter = Cutter(before, after)
        self._run = RegionRun(before, after, draws)
        self._work = Work(before)
        self._trials = Trials(before, self._work, finite=finite)
        self._done = LocalProof(True)
        run = self._work.program + _PER_CALL * len(before.graph.nodes)
        self._left = _RUNS * run + _LEAST_WORK

    def prove(self) -> LocalProof:
        possible = candidates(self._before, self._after)
        named = {node.name: node for node in self._before.graph.nodes if node.op == "call_function"}
        first: Failure | None = None
        for node in self._after.graph.nodes:
            if node.op == "output":
                break
            self._numbers.visit(node)
            meant = possible.get(node, [])
            for old in meant:
                failure = self._try(node, old)
                first = first or failure
            # the call of its name may compute something else by now
            if node.op == "call_function" and node.name in named and not any(self._equal(node, old) for old in meant):
                failure = self._try(node, named[node.name])
                first = first or failure
        for new, old in zip(self._after.outputs(), self._before.outputs(), strict=True):
            if not isinstance(new, fx.Node) or not isinstance(old, fx.Node):
                if new is not old and new != old:
                    self._done.proved = False
            elif not self._equal(new, old) and (failure := self._attempt(new, old, last=True)):
                self._done.proved = False
                self._done.failure = self._done.failure or first or failure
        return self._done

    def _try(self, node: fx.Node, old: fx.Node) -> Failure | None:
        if (
            self._equal(node, old)
            or isinstance(old.meta.get("val"), (list, tuple))
            or {node.op, old.op} <= {"get_attr", "placeholder"}
        ):
            return None
        return self._attempt(node, old, last=False)

    def _equal(self, new: fx.Node, old: fx.Node) -> bool:
        return self._numbers.of[new] == self._numbers.of[old]

    def _attempt(self, node: fx.Node, old: fx.Node, *, last: bool) -> Failure | None:
        """Prove two values equal and merge their numbers, or say why not."""
        region = self._cutter.cut(node, old, self._same, self._stops())
        found = self._differs(region)
        extended = region
        for depth in (*_DEPTHS, *([10**9] if last else [])):
            if found is None or (self._left < 0 and not last):
                break
            wider = self._cutter.extend(extended, depth)
            if wider.leaves == extended.leaves:
                break
            extended = wider
            if self._differs(extended) is None and self._holds_within(region, extended):
                found = None
        if found is not None:
            return found
        self._numbers.merge(node, old)
        self._done.regions.append(extended)
        return None

    def _same(self, node: fx.Node) -> fx.Node | None:
        return self._numbers.old.get(self._numbers.of[node])

    def _stops(self) -> set[fx.Node]:
        return {n for n in self._before.graph.nodes if self._numbers.of[n] in self._numbers.visited}

    def _differs(self, region: Region) -> Failure | None:
        ran = False
        for trial in self._trials.of(region):
            self._pay(region, trial)
            try:
                leaves = self._trials.leaves(region, trial)
                found = self._compare(region, leaves, trial)
            except (OldFails, TypeError):
                continue
            ran = True
            if found is not None:
                return found
        return (
            None if ran else Failure(region, math.nan, "no values, as the program before runs on none that were tried")
        )

    def _pay(self, region: Region, trial: Trial) -> None:
        calls = len(region.old) + len(region.new)
        self._left -= self._work.of(region) * self._trials.rows(trial) + _PER_CALL * calls

    def _compare(self, region: Region, leaves: dict[fx.Node, Any], trial: Trial) -> Failure | None:
        old = self._run.old(region, leaves)
        try:
            new = self._run.new(region, old)
        except NewFails as failed:
            return Failure(region, math.inf, f"{trial}, where it no longer runs: {failed}")
        rows = _rows_of(leaves) if trial.pattern is None else 0
        strict = trial.pattern != NOT_FINITE
        error, pattern = error_of(old[region.was], new[region.goal], rows, finite=strict)
        if not error <= self._tolerance:
            room = room_for_rounding(
                lambda moved: self._run.old(region, moved), region, leaves, old, new, rows, pattern
            )
            if not error <= room or (room == math.inf and not strict):
                on = str(trial) if pattern is None else PATTERNS[pattern]
                return Failure(region, error, on)
            return None
        self._done.error = max(self._done.error, error)
        return None

    def _holds_within(self, region: Region, extended: Region) -> bool:
        """Whether the sides agree on edge values between the least and the largest of what reaches the region."""
        inner = set(region.leaves) & set(extended.old)
        above = [n for n in extended.old if n not in region.old]
        if not inner or not all(_reaches_all_between(n) for n in _last_layers(inner, above)):
            return True
        samples: dict[fx.Node, list[torch.Tensor]] = {leaf: [] for leaf in inner}
        for trial in self._trials.of(extended):
            if trial.pattern == NOT_FINITE:
                continue
            self._pay(extended, trial)
            try:
                values = self._run.old(extended, self._trials.leaves(extended, trial))
            except (OldFails, TypeError):
                continue
            for leaf in inner:
                samples[leaf].append(values[leaf])
            base = values
            if not self._agrees_between(region, base, samples, trial):
                return False
        return True

    def _agrees_between(
        self, region: Region, base: dict[fx.Node, Any], samples: dict[fx.Node, list[torch.Tensor]], trial: Trial
    ) -> bool:
        leaves = {leaf: base[leaf] for leaf in region.leaves}
        constants = constants_in((*region.new, *region.old))
        for i, (leaf, seen) in enumerate(samples.items()):
            value = seen[-1]
            if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.dim():
                continue
            alike = [s for s in seen if s.shape[1:] == value.shape[1:]]
            every = torch.cat([s.flatten(0, 0) for s in alike])
            every = every.nan_to_num(0.0, 0.0, 0.0)
            low, high = every.amin(0), every.amax(0)
            made = edge_tensor(value.shape, value.dtype, "edge values", constants, 7000 + trial.seed + i)
            leaves[leaf] = made.clamp(low, high)
        try:
            return self._compare(region, leaves, Trial(trial.sizes, "edge values", trial.seed)) is None
        except OldFails:
            return True


def _rows_of(leaves: dict[fx.Node, Any]) -> int:
    first = {v.shape[0] for v in leaves.values() if isinstance(v, torch.Tensor) and v.dim()}
    return max(first, default=0)


def _last_layers(inner: set[fx.Node], above: list[fx.Node]) -> list[fx.Node]:
    """The nodes between a region's leaves and the contractions above them, these included."""
    found: list[fx.Node] = []
    todo, known = list(inner), set(above)
    while todo:
        node = todo.pop()
        if node in found or node not in known or node.op != "call_function":
            continue
        found.append(node)
        if family(node) != "contraction":
            todo += node.all_input_nodes
    return found


def _reaches_all_between(node: fx.Node) -> bool:
    """Whether an op that can give two numbers at a place can give those between, whatever it gives at other places."""
    kind = family(node)
    if kind in ("unary", "binary"):
        return has(node, Trait.CONTINUOUS) or op_name(node).startswith(("aten.add", "aten.sub", "aten.mul", "aten.div"))
    return (
        kind in ("contraction", "layout", "pool", "pick", "join", "pad", "size") or op_name(node) == "aten.batch_norm"
    )
