"""Which groups a pass may choose among."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np

from fxopt import Program
from fxopt.errors import OptionError
from fxopt.passes.prune.coupling.groups import Group, Unit, find_groups
from fxopt.passes.prune.coupling.sweep import Sweep

_SINGLE = ("channels", "stream")
"""Units that are no factor of a dim."""


def candidates(
    program: Program, sweep: Sweep, units: Sequence[Unit], keep: Sequence[str], who: str, *, only: Sequence[str] = ()
) -> list[Group]:
    """Groups of the wanted units, without those that a name in ``keep`` produces. Raises OptionError for a stray name.

    Without ``units``, the larger is taken of the factors of one dim: heads or head dims, groups or channels in a group.
    """
    groups = [g for g in find_groups(sweep) if len(g.atoms) > 1]
    if keep or only:
        names = {place.weight for group in groups for place in group.places} | set(program.tensors())
        check_patterns((*keep, *only), names, who)
    chosen = [g for g in groups if g.unit in units] if units else list(_larger_factors(groups))
    for group in chosen[:] if keep or only else ():
        producers = {p.weight for p in group.places if not p.consumes}
        kept = any(matches(name, pattern) for name in producers for pattern in keep)
        if kept or (only and not any(matches(name, pattern) for name in producers for pattern in only)):
            chosen.remove(group)
    return chosen


def check_patterns(patterns: Iterable[str], names: Collection[str], who: str) -> None:
    """Raise OptionError, with the nearest names, for a pattern that nothing has."""
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.3)
            raise OptionError(f"{who}: no weight or module is called {pattern!r}; near: {', '.join(near) or 'none'}")


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is a weight's name, that of a module around it, or fits either by wildcards."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _larger_factors(groups: list[Group]) -> Iterator[Group]:
    if all(group.unit in _SINGLE for group in groups):
        yield from groups
        return
    owner = np.full(1 + max(int(rows.max()) for group in groups for rows in group.arrays), -1)
    for i, group in enumerate(groups):
        owner[group.atoms] = i
    for i, group in enumerate(groups):
        if group.unit in _SINGLE:
            yield group
            continue
        met = [owners[(owners == i).any(1)] for owners in (owner[rows] for rows in group.arrays)]
        partners = {j for owners in met for j in np.unique(owners).tolist() if j >= 0}
        larger = [groups[j] for j in partners - {i} if _beats(groups[j], group)]
        if not larger:
            yield group


def _beats(other: Group, group: Group) -> bool:
    """Whether the other factor is to be taken: the larger, of equal ones the heads."""
    if group.unit in _SINGLE or other.unit in _SINGLE:
        return False
    return (len(other.atoms), other.unit == "heads") > (len(group.atoms), group.unit == "heads")
