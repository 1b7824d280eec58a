"""The groups of a program as something to read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fxopt import Context, Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import Group, find_groups
from fxopt.passes.prune.coupling.leftover import report_pinned


@dataclass(frozen=True)
class GroupRow:
    """A group: its name, unit and number of members, and the dims of the weights that make and that read them."""

    name: str
    unit: str
    count: int
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]


@dataclass(frozen=True)
class GroupsTable:
    """What can be removed, and what stays with the reason."""

    rows: tuple[GroupRow, ...]
    stays: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Lines for a console."""
        lines = [f"{len(self.rows)} groups can lose members, any but the last of each:", ""]
        for row in self.rows:
            lines.append(f"{row.count:>6} {row.unit:<10} {row.name.split(' ')[0]}")
            lines += [f"{'':>18}made by  {_shortened(row.made_by)}", f"{'':>18}read by  {_shortened(row.read_by)}"]
        lines += ["", "these stay:" if self.stays else "nothing else stays", *(f"    {line}" for line in self.stays)]
        return "\n".join(lines)


def groups(program: Program, context: Context = Context()) -> GroupsTable:
    """Show which channels, heads and groups can be pruned together, in which weights, and what is pinned and why."""
    sweep = couple(program)
    twin = shared_copy(program)
    twin.skips = []
    report_pinned(twin, sweep)
    return GroupsTable(tuple(map(_row, find_groups(sweep))), tuple(map(str, twin.skips)))


def _row(group: Group) -> GroupRow:
    made = tuple(dict.fromkeys(f"{p.weight}[{p.dim}]" for p in group.places if not p.consumes))
    read = tuple(dict.fromkeys(f"{p.weight}[{p.dim}]" for p in group.places if p.consumes))
    return GroupRow(group.name, group.unit, len(group.atoms), made, read)


def _shortened(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "computed values alone") + more
