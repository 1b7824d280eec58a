"""Matrix products whose output columns come in vectors, as tensor expressions.

As in a convolution, tiles of ``rows`` rows by ``vectors`` of output columns are accumulated in registers. A weight is packed at
build time, so that a vector of columns is contiguous; another right operand is packed at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.ops.block_names import FLUSHED, PACKED, SUMS, TILE
from fxopt.backends.tvm.tiling.task import Task, Tile, round_up

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Scalar, TensorExpr


def pack_columns(weight: Array, lanes: int, tile: Tile) -> Array:
    """A weight [k, n] as [n / lanes, k, lanes], padded to whole tiles with zeros."""
    padded = np.pad(weight, [(0, 0), (0, -weight.shape[1] % (lanes * tile.vectors))])
    return np.ascontiguousarray(padded.reshape(len(weight), -1, lanes).transpose(1, 0, 2))


@dataclass(frozen=True)
class Matmul:
    """Sizes of a product of [rows, depth] by [depth, columns], or of ``batch`` of them; for dynamic ``rows``, the size hint.

    Without ``batch`` the right operand is a weight, packed already.
    """

    rows: int
    depth: int
    columns: int
    lanes: int
    batch: int = 0

    def task(self) -> Task:
        """The choice of a tile for this product."""
        pairs = f" in {self.batch} pairs" if self.batch else ""
        key = f"matmul {self.rows}x{self.depth}x{self.columns}{pairs} l{self.lanes}"
        vectors = -(-self.columns // self.lanes)
        work = max(1, self.batch) * self.rows * self.depth * vectors
        return Task(key, self.rows, vectors, self.depth, work=work, kernel=self)

    def tensors(self, tile: Tile) -> list[TensorExpr]:
        """The operands, and their product; in a batch the right one is packed as part of it."""
        from tvm import te

        lead = (self.batch,) if self.batch else ()
        left = te.placeholder((*lead, self.rows, self.depth))
        if self.batch:
            right = te.placeholder((*lead, self.depth, self.columns))
            packed = pack(tile, self.lanes, right, transposed=False)
        else:
            right = packed = te.placeholder(
                (round_up(self.columns, self.lanes * tile.vectors) // self.lanes, self.depth, self.lanes)
            )
        return [left, right, compute(tile, self.lanes, self.columns, left, packed)]


def compute(tile: Tile, lanes: int, columns: int, left: TensorExpr, packed: TensorExpr) -> TensorExpr:
    """``left`` [..., m, k] by packed columns [n / lanes, k, lanes], or one such pack for each of the last leading dims."""
    from tvm import te, tirx

    *lead, rows, depth = left.shape
    vectors = packed.shape[-3]
    packs = len(packed.shape) - 3
    k = te.reduce_axis((0, depth), "k")
    known = isinstance(rows, tirx.IntImm)
    overhang = not known or int(rows) % tile.rows != 0

    def term(*at: Scalar) -> Scalar:
        *outer, vector, _, mo, mi, lane = at
        row = mo * tile.rows + mi
        if overhang:
            row = tirx.min(row, rows - 1)
        return left[(*outer, row, k)] * packed[(*outer[len(outer) - packs :], vector, k, lane)]

    tiles = tirx.floordiv(rows - 1, tile.rows) + 1  # spelled as in its readers, so that TVM's prover finds both equal
    tiled = te.compute(
        (*lead, vectors, 1, tiles, tile.rows, lanes),
        lambda *at: te.sum(term(*at), axis=k),
        name=SUMS,
        attrs={TILE: tile.to_list()},
    )
    sums = tiled if columns % lanes == 0 else te.compute(tiled.shape, lambda *at: tiled[at], name=FLUSHED)

    def element(*at: Scalar) -> Scalar:
        *outer, m, n = at
        tile_at = (tirx.floordiv(n, lanes), 0, tirx.floordiv(m, tile.rows), tirx.floormod(m, tile.rows))
        return sums[(*outer, *tile_at, tirx.floormod(n, lanes))]

    return te.compute((*lead, rows, columns), element, name="multiplied")


def pack(tile: Tile, lanes: int, right: TensorExpr, *, transposed: bool) -> TensorExpr:
    """A right operand [..., k, n], or [..., n, k] if ``transposed``, packed: [..., n / lanes, k, lanes]."""
    from tvm import te, tirx

    *lead, depth, columns = right.shape
    if transposed:
        depth, columns = columns, depth

    def element(*at: Scalar) -> Scalar:
        *outer, vector, k, lane = at
        n = vector * lanes + lane
        value = right[(*outer, n, k) if transposed else (*outer, k, n)]
        return tirx.if_then_else(n < columns, value, tirx.const(0, "float32"))

    vectors = round_up(int(columns), lanes * tile.vectors) // lanes
    return te.compute((*lead, vectors, depth, lanes), element, name=PACKED)
