"""The blocks that may be exchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxopt import Pipeline
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import size_expressions
from fxopt.passes.blocks.block import Block
from fxopt.passes.blocks.find_blocks import find_blocks
from fxopt.passes.fuse.fold_batch_norm import fold_batch_norm
from fxopt.passes.prune.choice.candidates import check_patterns, matches


def wanted_blocks(
    program: Program, whole: Program, keep: Sequence[str], only: Sequence[str], chosen: Sequence[str], who: str
) -> list[Block]:
    """The blocks that may be exchanged; others, as those without examples along the first dim, are reported.

    ``whole`` is the program with functional ops, whose nodes have the names of those of ``program``. Raises OptionError for a
    pattern that no block and no weight has.
    """
    blocks = find_blocks(whole)
    nodes = {node.name: node for node in program.graph.nodes}
    names = {name for block in blocks.blocks for name in (block.name, block.name.partition("#")[0])}
    check_patterns((*keep, *only, *chosen), names | set(program.tensors()), who)
    for name, reason in blocks.others:
        program.skip(nodes[name], reason)
    if not blocks.blocks:
        program.skip(program.graph.output_node(), "the program has no block that can be exchanged")
    found = []
    for block in blocks.blocks:
        if any(_holds(block, pattern) for pattern in keep) or (only and not any(is_named(block, p) for p in only)):
            continue
        if elsewhere := _examples_elsewhere(whole, block):
            program.skip(nodes[block.end], f"{block.name}: {elsewhere}")
            continue
        found.append(dataclasses.replace(block, program=_folded(block.program)))
    return found


def _folded(program: Program) -> Program:
    """A block with its batch norms folded where they can be, so that weights are approximated with their final scale."""
    if not any(program.find("aten.batch_norm")):
        return program
    return Pipeline.of(fold_batch_norm()).run(program, watchers=()).program


def is_named(block: Block, pattern: str) -> bool:
    """Whether a pattern is the name of a block, of a module around it, or fits either; without the number after #."""
    return block.name == pattern or matches(block.name.partition("#")[0], pattern)


def _holds(block: Block, pattern: str) -> bool:
    return is_named(block, pattern) or any(matches(name, pattern) for name in block.program.tensors())


def _examples_elsewhere(whole: Program, block: Block) -> str | None:
    """Why batches of a block's inputs and outputs cannot be concatenated along the first dim."""
    batch = next((symbol for symbol, name in whole.dims().items() if name == "batch"), None)
    for node in (block.program.inputs()[0], block.program.outputs()[0]):
        sizes = [str(size) for size in size_expressions(node.meta["val"].shape)]
        if batch and (not sizes or batch not in sizes[0] or any(batch in size for size in sizes[1:])):
            return f"%{block.end} or its source does not have the examples along the first dim"
    return None
