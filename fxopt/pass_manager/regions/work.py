"""The cost of running a rewritten region, in multiplications at a batch of one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import fx

from fxopt.ir.cost import counted_shapes, macs_by_node
from fxopt.ir.program import Program
from fxopt.pass_manager.regions.region import Region

_PER_ELEMENT = 40
"""An element that is created, moved and compared takes about the time of this many multiplications."""

PER_CALL = 10**5
"""A call takes at least as long as this many."""


class Work:
    """Multiplications of regions of a program, and the cost of elements besides."""

    def __init__(self, before: Program) -> None:
        macs, shape = macs_by_node(before), counted_shapes(before)
        self._of: dict[fx.Node, int] = {}
        for node in before.graph.nodes:
            elements = math.prod(shape(node)) if node.op in ("call_function", "placeholder") else 0
            self._of[node] = macs.get(node, 0) + _PER_ELEMENT * elements
        self.program = self._sum(before.graph.nodes)
        """Of the whole program."""

    def of(self, region: Region) -> int:
        """Of both sides, where the new one is assumed to cost as much as the old one: a replay has no shapes."""
        return 2 * self._sum(region.old) + self._sum(region.leaves)

    def _sum(self, nodes: Iterable[fx.Node]) -> int:
        return sum(self._of[node] for node in nodes)
