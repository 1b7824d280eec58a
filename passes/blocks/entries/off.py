"""Nothing in place of a branch."""

from __future__ import annotations

from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry


@block_entry("branch")
def off(block: Program, samples: Samples | None) -> str | None:
    """Nothing: the stream without what the branch adds to it."""
    block.graph.output_node().args = ((block.inputs()[0],),)
    return None
