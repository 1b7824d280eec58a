"""Which atoms must live: those that an output can be influenced by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt.passes.common.weight_value import weight_value
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import Rows
from fxopt.passes.prune.coupling.sweep import Contraction, Sweep

Known = Callable[[fx.Node], torch.Tensor | None]
"""What is known of a value whatever the inputs: see :mod:`fxopt.passes.prune.known.values`; None if nothing is."""


@dataclass(frozen=True)
class Liveness:
    """``live[atom]``, and why: ``cause[atom]`` is a reason (positive), a contraction (negative), or 0.

    ``nonzero`` says of every contraction which of its weights are not zero, ``[block, row, index]``, None without any.
    ``settled`` says that once the dead is gone, another look at the program finds nothing more.
    """

    live: NDArray[np.bool_]
    cause: NDArray[np.int64]
    nonzero: list[NDArray[np.bool_] | None]
    settled: bool


@dataclass
class _Site:
    """A contraction, its atoms resolved: ``nonzero[block, row, index]`` or None if every index counts."""

    index: Rows
    rows: Rows | None
    nonzero: NDArray[np.bool_] | None
    counts: NDArray[np.bool_]
    reads_constants: bool
    seen: NDArray[np.bool_] | None = None


def liveness(sweep: Sweep, known: Known) -> Liveness:
    """Least set of live atoms: the pinned ones, and whatever a live row of a contraction reads with a weight not zero.

    What is not in it feeds, through all of the graph, only what is not in it either. One index of every dim is kept.
    """
    cause = sweep.pinned.copy()
    live = cause != 0
    live[0] = True
    sites = [_site(sweep, c, known) for c in sweep.contractions]
    arrays = _all_arrays(sweep)
    settled = not sweep.atoms.clashed and not any(site.reads_constants for site in sites)
    while True:
        _spread(sites, live, cause)
        left = [int(live[rows].all(1).sum()) for rows in arrays]
        empty = next((rows for rows, n in zip(arrays, left, strict=True) if n == 0), None)
        if empty is None:  # a dim of one index hangs on nothing, so that what it was tied to is free
            settled &= not any(n == 1 < len(rows) for rows, n in zip(arrays, left, strict=True))
            return Liveness(live, cause, [site.nonzero for site in sites], settled)
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
    """Indices that some row asks for which has come to life since the last time."""
    if site.nonzero is None:
        return site.counts
    blocks, rows, n = site.nonzero.shape
    alive = np.ones(blocks * rows, np.bool_) if site.rows is None else np.asarray(live[site.rows].all(1))
    new = alive if site.seen is None else alive & ~site.seen
    site.seen = alive
    if not new.any():
        return np.zeros(blocks * n, np.bool_)
    if blocks == 1:
        read = site.nonzero[0][new].any(0)
    else:
        read = (site.nonzero & new.reshape(blocks, rows, 1)).any(1).ravel()
    return read & site.counts


def _site(sweep: Sweep, c: Contraction, known: Known) -> _Site:
    index = sweep.resolve(c.rows)
    counts = np.ones(len(index), np.bool_)
    constant = False
    for node, dim in c.operands:
        if (value := known(node)) is not None:
            counts &= _may_be_nonzero(value, dim, len(index))
            constant = True
    if c.weight is None or c.blocks is None:
        return _Site(index, None, None, counts, constant)
    weight = weight_value(sweep.program, c.weight)
    nonzero = c.blocks((weight != 0).to(torch.uint8)).numpy().astype(np.bool_)
    rows = None if c.weight_rows is None else sweep.resolve(c.weight_rows)
    return _Site(index, rows, nonzero, counts, constant)


def _may_be_nonzero(value: torch.Tensor, dim: int, n: int) -> NDArray[np.bool_]:
    zero = (value == 0).movedim(dim, 0).flatten(1).all(1) if value.dim() > 1 else value == 0
    return ~zero.expand(n).numpy()


def _all_arrays(sweep: Sweep) -> list[Rows]:
    """The monomials of every dim of every value, each array once, resolved."""
    found: dict[int, Rows] = {}
    todo = list(sweep.axes.values())
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        else:
            found |= {id(rows): rows for rows in ax.arrays(item)}
    return [sweep.resolve(rows) for rows in found.values()]
