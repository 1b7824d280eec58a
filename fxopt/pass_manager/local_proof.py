"""Local proofs: each rewritten region is run by itself, on many values of its inputs.

Values that are equal by construction are recognised (:mod:`fxopt.pass_manager.value_numbers`), so that only the rewritten
regions are left. As a region has nothing before and after it, depth hides no error, and the cost is proportional to the
change. The scheme is that of combinational equivalence checking with internal cut points (Kuehlmann and Krohm 1997).

A region may rely on its inputs, as one after a relu on signs. Where it fails on free values, it is extended upwards, so that
its inputs are computed by the ops above it; and between the least and the largest of these at each position, edge values are
tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from fxopt.ir.alias_analysis import written
from fxopt.ir.program import Program
from fxopt.numerics.float64 import float64_default
from fxopt.pass_manager.regions.check import Failure, RegionCheck
from fxopt.pass_manager.regions.region import Cutter, Region
from fxopt.pass_manager.value_numbers import ValueNumbers, candidates

_DEPTHS = (12, 40)
"""By how many nodes a region that fails is extended, one after the other."""

_WHOLE = 10**9


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
    """Prove the outputs of two float64 programs equal; None where regions do not apply, as memory is written to.

    ``draws`` has the keys of draws by node name; with ``finite`` NaN and infinities are tried too.
    """
    if any(written(node) for program in (before, after) for node in program.graph.nodes):
        return None
    with float64_default(), torch.no_grad():
        check = RegionCheck(before, after, draws, tolerance, finite=finite)
        return _Prover(before, after, ValueNumbers(before, after, draws), check).prove()


class _Prover:
    """Goes through the values of ``after`` in order, and proves those equal that should be but are not by construction."""

    def __init__(self, before: Program, after: Program, numbers: ValueNumbers, check: RegionCheck) -> None:
        self._before, self._after, self._numbers, self._check = before, after, numbers, check
        self._cutter = Cutter(before, after)
        self._regions: list[Region] = []

    def prove(self) -> LocalProof:
        first = self._visit_all()
        for new, old in zip(self._after.outputs(), self._before.outputs(), strict=True):
            failure = None
            if isinstance(new, fx.Node) and isinstance(old, fx.Node):
                if self._equal(new, old) or not (failure := self._attempt(new, old, last=True)):
                    continue
            elif new is old or new == old:
                continue
            return LocalProof(False, failure=first or failure)
        return LocalProof(True, self._regions, self._check.error)

    def _visit_all(self) -> Failure | None:
        """Number all values, and return the first failure."""
        meant_by = candidates(self._before, self._after)
        named = {node.name: node for node in self._before.graph.nodes if node.op == "call_function"}
        first: Failure | None = None
        for node in self._after.graph.nodes:
            if node.op == "output":
                break
            self._numbers.visit(node)
            meant = meant_by.get(node, [])
            failures = [self._try(node, old) for old in meant]
            # the call of the same name, which may compute something else by now
            if node.op == "call_function" and node.name in named and not any(self._equal(node, old) for old in meant):
                failures.append(self._try(node, named[node.name]))
            first = first or next(filter(None, failures), None)
        return first

    def _try(self, node: fx.Node, old: fx.Node) -> Failure | None:
        many = isinstance(old.meta.get("val"), (list, tuple))
        if many or self._equal(node, old) or {node.op, old.op} <= {"get_attr", "placeholder"}:
            return None
        return self._attempt(node, old, last=False)

    def _equal(self, new: fx.Node, old: fx.Node) -> bool:
        return self._numbers.of[new] == self._numbers.of[old]

    def _attempt(self, node: fx.Node, old: fx.Node, *, last: bool) -> Failure | None:
        """Prove two values equal and merge their numbers, or say why not."""
        region = extended = self._cutter.cut(node, old, self._same, self._stops())
        found = self._check.failure(region)
        for depth in (*_DEPTHS, *([_WHOLE] if last else [])):
            if found is None or (self._check.is_dear and not last):
                break
            wider = self._cutter.extend(extended, depth)
            if wider.leaves == extended.leaves:
                break
            extended = wider
            if self._check.failure(extended) is None and self._check.holds_within(region, extended):
                found = None
        if found is None:
            self._numbers.merge(node, old)
            self._regions.append(extended)
        return found

    def _same(self, node: fx.Node) -> fx.Node | None:
        return self._numbers.old.get(self._numbers.of[node])

    def _stops(self) -> set[fx.Node]:
        return {n for n in self._before.graph.nodes if self._numbers.of[n] in self._numbers.visited}
