"""Matrix products whose output columns come in vectors: what they compute.

As in a convolution, tiles of ``rows`` rows by ``vectors`` of output columns are summed in registers. A weight is packed
once, when the program is built, so that a vector of columns lies together; another right operand is packed as it comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backends.tvm.tasks import Task, Tile
from fxopt.backends.tvm.tiles import FLUSHED, PACKED, SUMS, TILE


def pack_columns(weight: Any, lanes: int) -> Any:
    """A weight [k, n] as [ceil(n / lanes), k, lanes], filled up with zeros."""
    padded = np.pad(weight, [(0, 0), (0, -weight.shape[1] % lanes)])
    return np.ascontiguousarray(padded.reshape(len(weight), -1, lanes).transpose(1, 0, 2))


def task(rows: int, depth: int, columns: int, lanes: int) -> Task:
    """The choice of a tile for a product of [rows, depth] by [depth, columns]; ``rows`` as they usually are."""
    key = f"matmul {rows}x{depth}x{columns} l{lanes}"
    return Task(key, rows, -(-columns // lanes), depth)


def compute(tile: Tile, lanes: int, columns: int, left: Any, packed: Any) -> Any:
    """``left`` [..., m, k] by packed columns [n / lanes, k, lanes], or one such pack for each of the leading dims."""
    from tvm import te, tirx

    *lead, rows, depth = left.shape
    vectors = -(-columns // lanes)
    shared = len(packed.shape) == 3
    k = te.reduce_axis((0, depth), "k")
    known = isinstance(rows, tirx.IntImm)
    overhang = not known or int(rows) % tile.rows != 0

    def term(*at: Any) -> Any:
        *outer, vector, _, mo, mi, lane = at
        row = mo * tile.rows + mi
        if overhang:
            row = tirx.min(row, rows - 1)
        return left[(*outer, row, k)] * packed[(*(() if shared else outer), vector, k, lane)]

    tiles = tirx.floordiv(rows - 1, tile.rows) + 1  # in this form, as TVM's prover knows it of what reads them
    tiled = te.compute(
        (*lead, vectors, 1, tiles, tile.rows, lanes),
        lambda *at: te.sum(term(*at), axis=k),
        name=SUMS,
        attrs={TILE: [tile.rows, tile.vectors, tile.unroll]},
    )
    whole = columns % lanes == 0
    sums = tiled if whole else te.compute(tiled.shape, lambda *at: tiled[at], name=FLUSHED)

    def element(*at: Any) -> Any:
        *outer, m, n = at
        tile_at = (tirx.floordiv(n, lanes), 0, tirx.floordiv(m, tile.rows), tirx.floormod(m, tile.rows))
        return sums[(*outer, *tile_at, tirx.floormod(n, lanes))]

    return te.compute((*lead, rows, columns), element, name="multiplied")


def pack(lanes: int, right: Any, *, transposed: bool) -> Any:
    """A right operand [..., k, n], or [..., n, k] if ``transposed``, packed: [..., n / lanes, k, lanes]."""
    from tvm import te, tirx

    *lead, depth, columns = right.shape
    if transposed:
        depth, columns = columns, depth

    def element(*at: Any) -> Any:
        *outer, vector, k, lane = at
        n = vector * lanes + lane
        value = right[(*outer, n, k) if transposed else (*outer, k, n)]
        return tirx.if_then_else(n < columns, value, tirx.const(0, "float32"))

    return te.compute((*lead, tirx.floordiv(columns + lanes - 1, lanes), depth, lanes), element, name=PACKED)
