"""int8 convolutions and matrix products as tensor expressions: int32 accumulators, in tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.ops.block_names import FLUSHED, INT8_KERNEL, PADDED, SUMS, TILE
from fxopt.backends.tvm.ops.int8_operands import im2col, pad_to_tiles
from fxopt.backends.tvm.tiling.int8 import Tiling
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import round_up

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Element, Scalar, Size, TensorExpr


def convolve(geometry: Geometry, tiling: Tiling, zero: int, data: TensorExpr, weight: TensorExpr) -> TensorExpr:
    """[n, H, W, lanes of all vectors] of int32 sums of ``data`` [n, H, W, padded channels] and a packed weight.

    The padding is the zero point.
    """
    from tvm import te

    high, wide = geometry.out_size
    assert wide is not None
    source = (
        pad_to_tiles(geometry, tiling, zero, data)
        if geometry.windows_of is None
        else im2col(geometry, tiling, zero, data)
    )
    sums = _sums(geometry, tiling, data.shape[0], -(-wide // tiling.rows), source, weight)
    padded_channels = geometry.instruction.padded_channels(geometry.outputs)
    element = _in_memory(geometry, tiling, sums, padded_channels)
    return te.compute((data.shape[0], high, wide, padded_channels), element, name="convolved")


def multiply(geometry: Geometry, tiling: Tiling, data: TensorExpr, weight: TensorExpr) -> TensorExpr:
    """[rows, columns] of int32 sums of ``data`` [rows, depth] and a packed weight.

    For a batch, [n, rows, columns] of [n, rows, depth] and a packed right operand for each.
    """
    from tvm import te, tirx

    *lead, rows, depth = data.shape
    columns = geometry.outputs
    tiles = tirx.floordiv(rows - 1, tiling.rows) + 1  # spelled as in its readers, so that TVM's prover finds both equal
    even = geometry.width is not None and geometry.width % tiling.rows == 0
    deep = geometry.steps * geometry.step
    source = data
    if not even or deep != int(depth):

        def inside(*at: Scalar) -> Scalar:
            row, k = at[-2:]
            within = tirx.all(row < rows, k < depth)
            return tirx.if_then_else(within, data[at], tirx.const(0, data.dtype))

        source = te.compute((*lead, tiles * tiling.rows, deep), inside, name=PADDED)
    sums = _sums(geometry, tiling, lead[0] if lead else 1, tiles, source, weight)
    element = _in_memory(geometry, tiling, sums, columns)
    if lead:
        return te.compute((*lead, rows, columns), lambda n, m, c: element(n, 0, m, c), name="multiplied")
    return te.compute((rows, columns), lambda m, c: element(0, 0, m, c), name="multiplied")


def _in_memory(geometry: Geometry, tiling: Tiling, sums: TensorExpr, channels: int) -> Element:
    """Access to the sum of a position and channel of an image.

    Sums are stored first, all channels of a position together, if they come from tile registers or channels end within a
    vector.
    """
    from tvm import te, tirx

    def place(y: Scalar, x: Scalar) -> list[Scalar]:
        down, up = tirx.floordiv, tirx.floormod
        return [down(y, tiling.lines), down(x, tiling.rows), up(y, tiling.lines), up(x, tiling.rows)]

    lanes = geometry.instruction.lanes
    if geometry.in_tile_registers:
        n, vectors, *places, _ = sums.shape
        stored = te.compute(
            (n, *places, vectors, lanes), lambda n, *at: sums[(n, at[-2], *at[:-2], at[-1])], name=FLUSHED
        )
        return lambda n, y, x, c: stored[(n, *place(y, x), tirx.floordiv(c, lanes), tirx.floormod(c, lanes))]
    tiled = sums if channels % lanes == 0 else te.compute(sums.shape, lambda *at: sums[at], name=FLUSHED)
    return lambda n, y, x, c: tiled[(n, tirx.floordiv(c, lanes), *place(y, x), tirx.floormod(c, lanes))]


def _sums(
    geometry: Geometry, tiling: Tiling, batch: Size, tiles: Size, source: TensorExpr, weight: TensorExpr
) -> TensorExpr:
    """[n, vectors, blocks of lines, tiles, lines, rows, lanes]."""
    from tvm import te, tirx

    lanes = geometry.instruction.lanes
    (r_step, s_step), (r_gap, s_gap) = geometry.stride, geometry.dilation
    r = te.reduce_axis((0, geometry.kernel[0]), "r")
    s = te.reduce_axis((0, geometry.columns_apart), "s")

    def byte(n: Scalar, yo: Scalar, xo: Scalar, yi: Scalar, xi: Scalar, c: Scalar) -> Scalar:
        y, x = yo * tiling.lines + yi, xo * tiling.rows + xi
        if len(source.shape) < 4:
            return source[(*([n] if geometry.batch else []), x, c)]
        if geometry.windows_of is not None:
            padded_channels, across = geometry.windows_of.padded_channels, geometry.windows_of.kernel[1]
            window = (
                tirx.floordiv(c, padded_channels * across),
                tirx.floormod(tirx.floordiv(c, padded_channels), across),
            )
            return source[(n, x, *window, tirx.floormod(c, padded_channels))]
        column = x * s_step + s * s_gap
        if geometry.merged:
            column, c = column + tirx.floordiv(c, geometry.padded_channels), tirx.floormod(c, geometry.padded_channels)
        return source[n, y * r_step + r * r_gap, column, c]

    if geometry.depthwise:
        axes = [r, s]

        def term(n: Scalar, k: Scalar, yo: Scalar, xo: Scalar, yi: Scalar, xi: Scalar, lane: Scalar) -> Scalar:
            number = byte(n, yo, xo, yi, xi, k * lanes + lane)
            return number.astype("int32") * weight[k, r, s, lane].astype("int32")
    else:
        group = geometry.instruction.group
        step = te.reduce_axis((0, geometry.steps), "step")
        part = te.reduce_axis((0, geometry.step // group), "part")
        inner = te.reduce_axis((0, group), "inner")
        axes = [r, s, step, part, inner]
        per_group = geometry.vectors // geometry.groups

        def term(n: Scalar, k: Scalar, yo: Scalar, xo: Scalar, yi: Scalar, xi: Scalar, lane: Scalar) -> Scalar:
            c = step * geometry.step + part * group + inner
            if geometry.groups > 1:
                c = tirx.floordiv(k, per_group) * geometry.per_group + c
            number = byte(n, yo, xo, yi, xi, c)
            packed = weight[(*([n] if geometry.batch else []), k, r, s, step, part, lane, inner)]
            return number.astype("int32") * packed.astype("int32")

    high = geometry.out_size[0]
    return te.compute(
        (
            batch,
            round_up(geometry.vectors, tiling.vectors),
            -(-high // tiling.lines),
            tiles,
            tiling.lines,
            tiling.rows,
            lanes,
        ),
        lambda *at: te.sum(term(*at), axis=axes),
        name=SUMS,
        attrs={
            INT8_KERNEL: geometry.kernel_kind,
            TILE: [tiling.lines, tiling.rows, tiling.vectors, tiling.unroll, tiling.register, tiling.chunk],
        },
    )
