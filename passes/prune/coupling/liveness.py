"""Which atoms must live: those that an output can be influenced by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt.passes.common.weight_value import weight_value
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import Rows, concatenated
from fxopt.passes.prune.coupling.nonzero import Nonzero
from fxopt.passes.prune.coupling.sweep import Contraction, Sweep

Known = Callable[[fx.Node], torch.Tensor | None]
"""What is known of a value whatever the inputs: see :mod:`fxopt.passes.prune.known.values`; None if nothing is."""


@dataclass(frozen=True)
class Liveness:
    """``live[atom]``, and why: ``cause[atom]`` is a reason (positive), a contraction (negative), or 0.

    ``nonzero`` says of every contraction which of its weights are not zero, None without any. ``settled`` says that once the
    dead is gone, another look at the program finds nothing more.
    """

    live: NDArray[np.bool_]
    cause: NDArray[np.int64]
    nonzero: list[Nonzero | None]
    settled: bool


@dataclass
class _Site:
    """A contraction, its atoms resolved: ``rows`` is None if all of them live, ``nonzero`` if every index counts."""

    index: Rows
    rows: Rows | None
    nonzero: Nonzero | None
    counts: NDArray[np.bool_]
    seen: NDArray[np.bool_] | None = None


def liveness(sweep: Sweep, known: Known) -> Liveness:
    """Least set of live atoms: the pinned ones, and whatever a live row of a contraction reads with a weight not zero.

    What is not in it feeds, through all of the graph, only what is not in it either. One index of every dim is kept.
    """
    cause = sweep.pinned.copy()
    live = cause != 0
    live[0] = True
    sites = [_site(sweep, c, known) for c in sweep.contractions]
    dims = Dims([sweep.resolve(rows) for rows in sweep.arrays])
    settled = not sweep.atoms.clashed
    while True:
        _spread(sites, live, cause)
        left = dims.count(live)
        if left.all():  # a dim of one index hangs on nothing, so that what it was tied to is free
            settled &= not bool(((left == 1) & (dims.lengths > 1)).any())
            settled &= not any(_sees_more(sweep, c, known, live) for c in sweep.contractions)
            return Liveness(live, cause, [site.nonzero for site in sites], settled)
        empty = dims.arrays[int(left.argmin())]
        live[empty[(~live[empty]).sum(1).argmin()]] = True  # the one that brings back the least


def _spread(sites: list[_Site], live: NDArray[np.bool_], cause: NDArray[np.int64]) -> None:
    changed = True
    while changed:
        changed = False
        for number in range(len(sites) - 1, -1, -1):  # what is needed flows from the outputs to the inputs
            site = sites[number]
            needed = site.index[_needed(site, live)]
            if not (new := needed[~live[needed]]).size:
                continue
            live[new] = True
            cause[new] = -1 - number
            changed = True


def _needed(site: _Site, live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Indices, not all alive, that some row asks for which has come to life since the last time."""
    if site.nonzero is None:
        return site.counts
    wanted = site.counts & ~live[site.index].all(1)
    size = site.nonzero.blocks * site.nonzero.rows
    alive = np.ones(size, np.bool_) if site.rows is None else np.asarray(live[site.rows].all(1))
    new = alive if site.seen is None else alive & ~site.seen
    site.seen = alive
    return site.nonzero.read(new, wanted) if new.any() and wanted.any() else np.zeros_like(wanted)


def _sees_more(sweep: Sweep, c: Contraction, known: Known, live: NDArray[np.bool_]) -> bool:
    """Whether more of what is summed over is known to be zero once the dead indices of the other dims are gone."""
    stays = np.asarray(live[sweep.resolve(c.rows)].all(1))
    for node, dim in c.operands:
        value, axes = known(node), sweep.of(node)
        if value is None:
            continue
        cut = value
        for other, size in enumerate(value.shape):
            if size == 1 or other == dim % value.dim() or ax.is_fixed(axes[other]):
                continue
            if (rows := ax.rows_of(axes[other])) is None:  # a dynamic size is part of it
                return True
            cut = cut.index_select(other, torch.from_numpy(np.flatnonzero(live[sweep.resolve(rows)].all(1))))
        if cut.shape != value.shape:
            zero = _may_be_nonzero(value, dim, len(stays)) & ~_may_be_nonzero(cut, dim, len(stays))
            if (stays & zero).any():
                return True
    return False


def _site(sweep: Sweep, c: Contraction, known: Known) -> _Site:
    index = sweep.resolve(c.rows)
    counts = np.ones(len(index), np.bool_)
    for node, dim in c.operands:
        if (value := known(node)) is not None:
            counts &= _may_be_nonzero(value, dim, len(index))
    if c.weight is None or c.blocks is None:
        return _Site(index, None, None, counts)
    rows = None if c.weight_rows is None else sweep.resolve(c.weight_rows)
    return _Site(index, rows, Nonzero(c.blocks(weight_value(sweep.program, c.weight))), counts)


def _may_be_nonzero(value: torch.Tensor, dim: int, n: int) -> NDArray[np.bool_]:
    zero = (value == 0).movedim(dim, 0).flatten(1).all(1) if value.dim() > 1 else value == 0
    return ~zero.expand(n).numpy()


class Dims:
    """Resolved monomials of dims, each array once, so that the indices that live are counted in all of them at once."""

    def __init__(self, arrays: Iterable[Rows]) -> None:
        self.arrays = list({id(rows): rows for rows in arrays}.values())
        self.lengths = np.array([len(rows) for rows in self.arrays], np.int64)
        self._rows = concatenated(self.arrays) if self.arrays else np.zeros((0, 1), np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths

    def count(self, live: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Of each array, how many indices live."""
        if not self.arrays:
            return self.lengths
        return np.add.reduceat(live[self._rows].all(1), self._starts, dtype=np.int64)
