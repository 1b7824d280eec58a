"""The blocks of a program as a table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fxopt import Context, Program
from fxopt.ir.alias_analysis import make_functional
from fxopt.ir.cost import cost, macs_of
from fxopt.ir.printer import source_line, type_text
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.blocks.block import Block
from fxopt.passes.blocks.block_latency import block_latency
from fxopt.passes.blocks.find_blocks import find_blocks
from fxopt.runtime.device import cannot_time
from fxopt.target.detect import host


@dataclass(frozen=True)
class BlockRow:
    """A block: types of its input and output, its MACs, and its share of the whole net's latency, None where not measured.

    Blocks with the same number ``alike`` have the same graph and shapes.
    """

    name: str
    kind: str
    parent: str | None
    alike: int
    takes: str
    gives: str
    macs: int
    latency_share: float | None
    source: str


@dataclass(frozen=True)
class StaysRow:
    """A node that no block begins or ends at, and why."""

    node: str
    source: str
    reason: str


@dataclass(frozen=True)
class BlocksTable:
    """The blocks, each followed by those inside it; nodes that are none; and why no latency was measured."""

    rows: tuple[BlockRow, ...]
    stays: tuple[StaysRow, ...]
    macs_of: str
    not_timed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Lines for a console."""
        depth: dict[str | None, int] = {None: -1}
        lines = [f"{len(self.rows)} blocks:", "", f"{'alike':>5} {'MACs':>13} {'time':>6}  block"]
        for row in self.rows:
            depth[row.name] = level = depth[row.parent] + 1
            share = "" if row.latency_share is None else f"{row.latency_share:.1%}"
            text = f"{row.name} ({row.kind}) {row.takes} -> {row.gives}"
            lines.append(f"{row.alike:>5} {row.macs:>13,} {share:>6}  {'  ' * level}{text}   {row.source}".rstrip())
        lines += ["", f"MACs are of {self.macs_of}; alike: blocks of one number have the same graph and shapes"]
        if self.not_timed:
            lines.append(f"no latency: {self.not_timed}")
        lines += ["", "these are no blocks:" if self.stays else "nothing else looks like a block"]
        return "\n".join([*lines, *(f"    %{r.node}: {r.reason}   {r.source}".rstrip() for r in self.stays)])


def blocks(program: Program, context: Context = Context()) -> BlocksTable:
    """Show the regions that substitute can exchange, with MACs and share of the latency; and what is none, and why."""
    program = shared_copy(program)
    make_functional(program)
    derive_shapes(program)
    found = find_blocks(program)
    reason = _not_timed(context)
    shares = block_latency(program, context, found.blocks, "explain blocks") if found.blocks and not reason else {}
    nodes = {node.name: node for node in program.graph.nodes}
    numbers: dict[str, int] = {}
    rows = []
    for block in found.blocks:
        number = numbers.setdefault(block.alike, len(numbers) + 1)
        takes, gives = (type_text(nodes[n].meta["val"], program.dims()) for n in (block.source, block.end))
        line = source_line(nodes[block.end])
        rows.append(
            BlockRow(
                block.name, block.kind, block.parent, number, takes, gives, _macs(block), shares.get(block.name), line
            )
        )
    stays = tuple(StaysRow(name, source_line(nodes[name]), why) for name, why in found.others)
    return BlocksTable(tuple(rows), stays, macs_of(program), reason)


def _macs(block: Block) -> int:
    return cost(block.program).macs


def _not_timed(context: Context) -> str | None:
    if context.backend is None:
        return "there is no backend to build with"
    reason = cannot_time(context.target or host())
    return f"{reason}; MACs alone" if reason else None
