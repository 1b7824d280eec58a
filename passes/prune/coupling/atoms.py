"""Atoms: what can be removed, and the algebra by which removals imply each other.

Every index of every dim of every value holds a *monomial*: the set of atoms of which all must live for the index to
live. A dim of n indices is an int array ``[n, k]``; 0 stands for "always alive". Two dims that must keep the same
indices are united: atom with atom by union-find, or one atom with a product of atoms by substitution (a linear output
of 768 viewed as 12 heads of 64 makes ``a[i] := h[i // 64] and d[i % 64]``). Substitution keeps whatever held before,
so that one sweep over a graph is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Rows = NDArray[np.int64]
"""Monomials of the indices of one dim, ``[n, k]``."""

_ROUNDS = 64


class Atoms:
    """All atoms of one analysis, with what was learned about them."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._product = np.zeros((1, 2), np.int64)  # what an atom was bound to; a row of zeros if it is free
        self._count = 1
        self._pins: list[tuple[Rows, int]] = []
        self._waiting: list[tuple[Rows, Rows | None, int]] = []  # dims to unite and, with None, to pin
        self._clashed = False

    def __len__(self) -> int:
        return self._count

    @property
    def clashed(self) -> bool:
        """Whether some dims were tied or pinned more than they need be, as they are made up in ways that do not fit."""
        self._settle()
        return self._clashed

    def fresh(self, n: int) -> Rows:
        """Monomials of ``n`` new atoms, each index its own."""
        start, self._count = self._count, self._count + n
        if self._count > len(self._parent):
            size = max(self._count, 2 * len(self._parent))
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), size)])
            product = np.zeros((size, self._product.shape[1]), np.int64)
            product[: len(self._product)] = self._product
            self._product = product
        return np.arange(start, self._count)[:, None]

    def pin(self, rows: Rows, reason: int) -> None:
        """All atoms of ``rows`` must live; ``reason`` (from 1) says why and the first one stays."""
        self._waiting.append((rows, None, reason))

    def pinned(self) -> NDArray[np.int64]:
        """The reason of every atom, 0 where it is free; only atoms that :meth:`resolve` returns count."""
        self._settle()
        reasons = np.zeros(self._count, np.int64)
        pinned = self.resolve_all([rows for rows, _ in self._pins])
        for rows, (_, reason) in zip(reversed(pinned), reversed(self._pins), strict=True):
            reasons[rows] = reason
        reasons[0] = 0
        return reasons

    # ---- reading -----------------------------------------------------------------------------------------------

    def resolve(self, rows: Rows) -> Rows:
        """The same monomials in free atoms: no atom twice in a row, no column of zeros."""
        self._settle()
        return _compact(_without_repeats(self._expanded(self._roots(rows))))

    def _expanded(self, rows: Rows) -> Rows:
        """Roots with the products that they are bound to in their place."""
        while (bound := self._product[rows, 0] != 0).any():
            width = self._product.shape[1]
            wide = np.where(bound[:, :, None], self._product[rows], 0)
            wide[:, :, 0] = np.where(bound, wide[:, :, 0], rows)
            rows = _compact(self._roots(wide.reshape(len(rows), rows.shape[1] * width)))
        return rows

    def resolve_all(self, arrays: Sequence[Rows]) -> list[Rows]:
        """As :meth:`resolve` each of them; equal ones are one array."""
        self._settle()
        single = [rows for rows in arrays if rows.shape[1] == 1]
        roots = self._roots(np.concatenate([np.zeros((0, 1), np.int64), *single]))
        bound = self._product[roots[:, 0], 0] != 0
        known: dict[tuple[int, bytes], Rows] = {}
        found, start = [], 0
        for rows in arrays:
            if rows.shape[1] == 1:
                here = slice(start, start := start + len(rows))
                resolved = self.resolve(rows) if bound[here].any() else roots[here]
            else:
                resolved = self.resolve(rows)
            found.append(known.setdefault((resolved.shape[1], resolved.tobytes()), resolved))
        return found

    def _roots(self, atoms: Rows) -> Rows:
        roots = self._parent[atoms]
        if ((above := self._parent[roots]) == roots).all():
            return roots
        while ((higher := self._parent[above]) != above).any():
            above = higher
        self._parent[atoms] = above  # so that the way is short the next time
        return above

    # ---- learning ----------------------------------------------------------------------------------------------

    def unite(self, a: Rows, b: Rows, reason: int) -> None:
        """Let index i of ``a`` live exactly if index i of ``b`` does; what fits in no way is pinned with ``reason``."""
        if a.shape[1] == b.shape[1] == 1:
            self._waiting.append((a, b, reason))
        else:
            self._settle()
            self._unite(a, b, reason)

    def _settle(self) -> None:
        """Unite and pin what waits: dims of single atoms all at once, as it makes no difference which of them is first."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        pairs = [(left, right) for left, right, _ in waiting if right is not None]
        if pairs:
            a, b = (self._roots(np.concatenate([pair[side][:, 0] for pair in pairs])) for side in (0, 1))
            if a.all() and b.all() and self._join_all(a, b):
                pairs = []
        for left, right, reason in waiting:
            if right is None:
                self._pins.append((left, reason))
            elif pairs:
                self._unite(left, right, reason)

    def _join_all(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
        """Join single atoms, each class of which gets the product that one of them is bound to; False where that is not all.

        It is not where two of a class are bound, whose products are to be united, or where a product would hold itself.
        """
        atoms, where = np.unique(np.concatenate([a, b]), return_inverse=True)
        bound = self._product[atoms, 0] != 0
        if bound.any():
            left, right = where.reshape(2, -1)
            edges = coo_matrix((np.ones(len(left)), (left, right)), shape=(len(atoms), len(atoms)))
            label = connected_components(edges, directed=False)[1]
            counts = np.bincount(label[bound], minlength=len(atoms))
            joined = atoms[~bound & (counts[label] == 1)]
            if (counts > 1).any() or np.isin(joined, self._expanded(_one(atoms[bound]))).any():
                return False
        self._join(a, b)
        roots = self._roots(atoms[bound])
        self._product[roots] = self._product[atoms[bound]]
        return True

    def _unite(self, a: Rows, b: Rows, reason: int) -> None:
        for _ in range(_ROUNDS):
            a, b = self._rest(a, b)
            if len(a) == 0:
                return
            counts = np.count_nonzero(a, 1), np.count_nonzero(b, 1)
            least, most = np.minimum(*counts), np.maximum(*counts)
            if (fixed := least == 0).any():  # one side always lives
                self._pins.append((np.concatenate([_one(a[fixed]), _one(b[fixed])]), reason))
                a, b = a[~fixed], b[~fixed]
            elif (single := most == 1).any():
                self._join(a[single].max(1), b[single].max(1))
            elif (half := least == 1).any():
                self._bind_rows(a[half], b[half])
            elif not self._match(a, b):
                break
        self._clashed = True
        self._pins.append((np.concatenate([_one(a), _one(b)]), reason))

    def _rest(self, a: Rows, b: Rows) -> tuple[Rows, Rows]:
        """Rows in which the two sides differ, without what they have in common."""
        a, b = self.resolve(a), self.resolve(b)
        same = (a[:, :, None] == b[:, None, :]) & (a[:, :, None] != 0)
        a, b = np.where(same.any(2), 0, a), np.where(same.any(1), 0, b)
        open_rows = a.any(1) | b.any(1)
        return a[open_rows], b[open_rows]

    def _join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        while True:
            a, b = self._roots(a), self._roots(b)
            low, high = np.minimum(a, b), np.maximum(a, b)
            if (differ := low != high).sum() == 0:
                return
            a, b = low[differ], high[differ]
            self._parent[b] = a  # an atom that meets several takes one of them, the next round the rest

    def _bind_rows(self, a: Rows, b: Rows) -> None:
        """Bind the single atom of each row to the product on its other side; rows that would go in a circle wait."""
        lone = np.where(np.count_nonzero(a, 1) == 1, a.max(1), b.max(1))
        other = np.where((np.count_nonzero(a, 1) == 1)[:, None], _wide(b, a), _wide(a, b))
        lone, first = np.unique(lone, return_index=True)
        other = other[first]
        safe = np.asarray(~np.isin(other, lone).any(1))
        if not safe.any():
            safe[0] = True
        self.bind(lone[safe], other[safe])

    def bind(self, atoms: NDArray[np.int64], products: Rows) -> None:
        """Substitute free atoms by products of other free atoms, one row each."""
        products = _compact(-np.sort(-products, 1))
        if products.shape[1] > self._product.shape[1]:
            grown = np.zeros((len(self._product), products.shape[1]), np.int64)
            grown[:, : self._product.shape[1]] = self._product
            self._product = grown
        self._product[atoms, : products.shape[1]] = products

    def _match(self, a: Rows, b: Rows) -> bool:
        """Join factors that occur in the same rows on either side; False if there are none."""
        weights = np.random.default_rng(0).integers(1, 1 << 62, len(a))
        sign_a, sign_b = _signatures(a, weights), _signatures(b, weights)
        same = (sign_a[:, :, None] == sign_b[:, None, :]) & (a[:, :, None] != 0) & (b[:, None, :] != 0)
        row, left, right = same.nonzero()
        if len(row) == 0:
            return False
        self._join(a[row, left], b[row, right])
        return True

    def split(self, rows: Rows, outer: int, inner: int, reason: int) -> tuple[Rows, Rows]:
        """Write ``outer * inner`` indices as a product: index (i, j) lives iff i of the one and j of the other do.

        Free atoms are bound to products of fresh ones; where that does not work out they are tied along the smaller
        dim, and where that fails too they are pinned with ``reason``.
        """
        tied = False
        while True:
            cells = self.resolve(rows).reshape(outer, inner, -1)
            major, minor = _common(cells), _common(cells.transpose(1, 0, 2))
            explained = (cells[..., None] == major[:, None, None, :]).any(3)
            explained |= (cells[..., None] == minor[None, :, None, :]).any(3)
            rest = np.where(explained, 0, cells)
            if not rest.any() or tied:
                self.pin(_one(rest), reason)
                return _compact(major), _compact(minor)
            if not self._factor(rest):
                self._clashed = True
                first = np.broadcast_to(rest[:1] if inner >= outer else rest[:, :1], rest.shape)
                self.unite(rest.reshape(outer * inner, -1), first.reshape(outer * inner, -1), reason)
                tied = True

    def _factor(self, rest: NDArray[np.int64]) -> bool:
        """Bind what is left over in the cells ``[outer, inner, k]`` to a product of fresh atoms, if all are different."""
        if rest.shape[2] > 1:
            if np.count_nonzero(rest, 2).max() > 1:
                return False
            rest = rest.max(2, keepdims=True)
        ids = rest[:, :, 0]
        _, row_first = np.unique(ids, axis=0, return_index=True)
        _, column_first = np.unique(ids, axis=1, return_index=True)
        core = ids[np.ix_(row_first, column_first)]
        if (core == 0).any() or len(np.unique(core)) != core.size or min(core.shape) < 2:
            return False
        # fresh atoms in the order of first occurrence, so that they read like the dims they stand for
        rows = self.fresh(len(row_first))[np.argsort(np.argsort(row_first)), 0]
        columns = self.fresh(len(column_first))[np.argsort(np.argsort(column_first)), 0]
        left, right = np.broadcast_arrays(rows[:, None], columns[None, :])
        self.bind(core.ravel(), np.stack([left.ravel(), right.ravel()], 1))
        return True


def product(outer: Rows, inner: Rows) -> Rows:
    """Monomials of two dims merged into one, the first being the slower."""
    left, right = np.repeat(outer, len(inner), 0), np.tile(inner, (len(outer), 1))
    return np.concatenate([left, right], 1)


def concatenated(parts: Sequence[Rows]) -> Rows:
    """Monomials of one dim after the other."""
    width = max(rows.shape[1] for rows in parts)
    if all(rows.shape[1] == width for rows in parts):
        return np.concatenate(parts)
    made, start = np.zeros((sum(map(len, parts)), width), np.int64), 0
    for rows in parts:
        made[start : start + len(rows), : rows.shape[1]] = rows
        start += len(rows)
    return made


def _common(cells: NDArray[np.int64]) -> Rows:
    """Atoms that all cells of a row of ``[rows, columns, k]`` share."""
    candidates = cells[:, 0]
    everywhere = (cells[:, :, :, None] == candidates[:, None, None, :]).any(2).all(1)
    return np.where(everywhere, candidates, 0)


def _signatures(rows: Rows, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every entry a number that tells in which rows its atom occurs."""
    _, inverse = np.unique(rows, return_inverse=True)
    inverse = inverse.reshape(rows.shape)
    sums = np.zeros(inverse.max() + 1, np.int64)
    np.add.at(sums, inverse, np.broadcast_to(weights[:, None], rows.shape))
    return sums[inverse]


def _without_repeats(rows: Rows) -> Rows:
    for column in range(1, rows.shape[1]):
        repeated = (rows[:, :column] == rows[:, column : column + 1]).any(1)
        if repeated.any():
            rows = rows.copy()
            rows[repeated, column] = 0
    return rows


def _compact(rows: Rows) -> Rows:
    """Without columns that are all zeros; at least one stays."""
    if rows.shape[1] == 1:
        return rows
    used = np.asarray(rows.any(0))
    used[0] |= not used.any()
    return rows if used.all() else rows[:, used]


def _one(rows: Rows) -> Rows:
    return rows.reshape(-1, 1)


def _wide(rows: Rows, like: Rows) -> Rows:
    return np.pad(rows, ((0, 0), (0, max(0, like.shape[1] - rows.shape[1]))))
