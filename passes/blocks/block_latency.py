"""Latency of blocks inside their net: the net up to a block's end against the net up to its source."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fxopt.driver.time_build import built_times
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.with_outputs import with_outputs
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.step import tidy
from fxopt.passes.blocks.block import Block

_BLOCKS, _BLOCK_MS = 15, 3.0


def block_latency(program: Program, context: Context, blocks: Sequence[Block], who: str) -> dict[str, float]:
    """The share of the whole net's latency that each block takes, by its name; of identical ones the first is timed.

    All other nodes that lead to the end of a block lead to its source. So the latency is that of the net cut after the
    end, less that of the net cut after the source, both built and timed in one run. One too small to measure is zero.
    Raises UsageError where the target cannot be timed, BackendError for a cut that cannot be built.
    """
    first: dict[str, Block] = {}
    for block in blocks:
        first.setdefault(block.alike, block)
    ends = dict.fromkeys(name for block in first.values() for name in (block.source, block.end))
    inputs = {node.name for node in program.inputs()}
    models = {"": program} | {name: _until(program, name) for name in ends if name not in inputs}
    times = built_times(models, context, who, blocks=_BLOCKS, block_ms=_BLOCK_MS)
    whole, nothing = times[""].blocks_ms, [0.0] * len(times[""].blocks_ms)

    def share(block: Block) -> float:
        here, before = (times[n].blocks_ms if n in times else nothing for n in (block.end, block.source))
        rounds = zip(here, before, whole, strict=True)
        return max(0.0, statistics.median((a - b) / w for a, b, w in rounds))

    shares = {alike: share(block) for alike, block in first.items()}
    return {block.name: shares[block.alike] for block in blocks}


def _until(program: Program, name: str) -> Program:
    """A program whose only output is the value of a node."""
    cut = with_outputs(program, [name], own=False)
    tidy(cut)
    derive_shapes(cut)
    return cut
