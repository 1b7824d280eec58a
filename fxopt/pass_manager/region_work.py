"""What it costs to run a rewritten region, in multiplications at a batch of one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import fx

from fxopt.ir.cost import counted_shapes, macs_by_node
from fxopt.ir.program import Program
from fxopt.pass_manager.region import Region

_PER_ELEMENT = 10
"""An element that is made, moved and compared takes about the time of this many multiplications."""


class Work:
    """Multiplications, and elements by what they take beside these, of regions between two programs."""

    def __init__(self, before: Program, after: Program) -> None:
        self._of: dict[fx.Node, int] = {}
        for program in (before, after):
            macs, shape = macs_by_node(program), counted_shapes(program)
            for node in program.graph.nodes:
                elements = math.prod(shape(node)) if node.op in ("call_function", "placeholder") else 0
                self._of[node] = macs.get(node, 0) + _PER_ELEMENT * elements
        self.before = self.of(before.graph.nodes)
        """Of the program before."""

    def of(self, nodes: Iterable[fx.Node]) -> int:
        """Of some nodes."""
        return sum(self._of[node] for node in nodes)

    def of_region(self, region: Region) -> int:
        """Of both sides of a region, and of the values that it reads."""
        return self.of((*region.old, *region.new, *region.leaves))
