"""A block: a region of a program with one floating-point tensor in and one out, as a program of its own."""

from __future__ import annotations

from dataclasses import dataclass

from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import BlockKind


@dataclass(frozen=True, eq=False)
class Block:
    """A region: ``end`` is computed from ``source`` alone, by ``nodes``, which nothing else reads but ``end``.

    Nodes are given by name, so that a block is one of every copy of its program. ``program`` computes the region for a
    source of the same type, with copies of the weights under their own names; ``alike`` is its canonical text. ``parent``
    is the name of the smallest block around it.
    """

    name: str
    kind: BlockKind
    source: str
    end: str
    nodes: frozenset[str]
    program: Program
    alike: str
    parent: str | None = None

    def overlaps(self, other: Block) -> bool:
        """Whether the two share a node, so that at most one of them can be exchanged."""
        return not self.nodes.isdisjoint(other.nodes)


@dataclass(frozen=True)
class Blocks:
    """The blocks in the order of the graph, a parent before those inside it; and the nodes that look like one and are none."""

    blocks: tuple[Block, ...]
    others: tuple[tuple[str, str], ...]
    """Node by name, and the reason."""
