"""Choose the least important residual branches: a share of them, or until a budget of MACs is met."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import fx

from fxopt.errors import BudgetError
from fxopt.ir.cost import macs_by_node
from fxopt.ir.dead_code import LiveCode
from fxopt.ir.program import Program
from fxopt.passes.prune.depth.residual import Branch

LARGEST = 0.5
"""A branch with a larger share of the MACs is no layer of the network but most of it; a ``ratio`` above this allows it."""


class LayerChooser:
    """Branches in the order of importance. One that lies in another goes with it."""

    def __init__(self, program: Program, branches: Sequence[Branch], who: str) -> None:
        self._program, self._branches, self._who = program, branches, who
        self._macs = macs_by_node(program)
        self._code = LiveCode(program)
        self._parts = [{j for j, other in enumerate(branches) if branch.holds(other)} for branch in branches]

    def by_ratio(self, scores: Sequence[float], ratio: float) -> list[int]:
        """At most the share ``ratio`` of the branches, those inside others counted: the least important that fit."""
        wanted = math.floor(ratio * len(self._branches) + 1e-9)
        dense = self.left(())
        taken: list[int] = []
        gone: set[int] = set()
        for i in _ascending(scores):
            more = ({i} | self._parts[i]) - gone
            if i in gone or len(gone) + len(more) > wanted:
                continue
            share = 1 - self.left([i]) / dense if dense else 0.0
            if share > max(LARGEST, ratio):
                reason = f"the branch holds {share:.0%} of the MACs; to drop it, give a budget: macs="
                self._program.skip(self._branches[i].total, reason)
                continue
            taken.append(i)
            gone |= more
        return taken

    def by_macs(self, scores: Sequence[float], macs: float) -> list[int]:
        """The least important until the MACs left are within ``macs``, a share up to 1 or a number.

        The more important of these stay if those taken later turn out to be enough. Raises BudgetError.
        """
        dense = self.left(())
        limit = macs * dense if macs <= 1 else macs
        taken: list[int] = []
        gone: set[int] = set()
        for i in _ascending(scores):
            if self.left(taken) <= limit:
                break
            if i not in gone:
                taken.append(i)
                gone |= {i} | self._parts[i]
        if (reached := self.left(taken)) > limit:
            raise BudgetError(
                f"{self._who}: macs comes down to {reached:,} of {dense:,} without any residual branch that may "
                f"go, the budget is {limit:,.0f}\n{self._largest(taken)}",
                way_out="allow more: fewer names in keep; or prune channels too",
            )
        for i in reversed(taken[:]):
            rest = [j for j in taken if j != i]
            if self.left(rest) <= limit:
                taken = rest
        return taken

    def left(self, taken: Iterable[int]) -> int:
        """MACs of the nodes that outputs depend on without these branches, see :func:`fxopt.ir.cost.macs_of`."""
        live = self._live(taken)
        return sum(count for node, count in self._macs.items() if node in live)

    def _live(self, taken: Iterable[int]) -> set[fx.Node]:
        instead = {self._branches[i].total: self._branches[i].stream for i in taken}
        return self._code.nodes(instead)

    def _largest(self, taken: Iterable[int]) -> str:
        live = self._live(taken)
        left = {node: count for node, count in self._macs.items() if node in live}
        total = sum(left.values()) or 1
        worst = sorted(left, key=left.__getitem__, reverse=True)[:5]
        return "\n".join(f"    {left[n] / total:.0%} of the MACs left: {self._program.describe(n)}" for n in worst)


def _ascending(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=scores.__getitem__)
