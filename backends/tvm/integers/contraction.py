"""Integer convolutions and products as tensor expressions: 32-bit sums of codes times weights, in tiles."""

from __future__ import annotations

from typing import Any

from fxopt.backends.tvm.integers.geometry import Geometry
from fxopt.backends.tvm.integers.tiling import Tiling
from fxopt.backends.tvm.tasks import whole
from fxopt.backends.tvm.tiles import FLUSHED, PADDED, SUMS, TILE

INTEGERS = "fxopt.integers"
"""Annotation of the block of integer sums: lines, rows, vectors, unroll and rows of a register, and the instruction."""


def convolve(geometry: Geometry, tiling: Tiling, zero: int, data: Any, weight: Any) -> Any:
    """[n, H, W, lanes of all vectors] of int32 sums of ``data`` [n, H, W, held] and a packed weight.

    The border is the code of zero.
    """
    from tvm import te

    high, wide = geometry.out_size
    assert wide is not None
    source = _padded(geometry, tiling, zero, data)
    sums = _sums(geometry, tiling, data.shape[0], -(-wide // tiling.rows), source, weight)
    lanes, held = geometry.instruction.lanes, geometry.instruction.held(geometry.outputs)
    tiled = _flushed(geometry, sums, held)

    def element(n: Any, y: Any, x: Any, c: Any) -> Any:
        return _tile_of(tiled, tiling, lanes, n, y, x, c)

    return te.compute((data.shape[0], high, wide, held), element, name="convolved")


def multiply(geometry: Geometry, tiling: Tiling, data: Any, weight: Any) -> Any:
    """[rows, columns] of int32 sums of ``data`` [rows, depth] and a packed weight."""
    from tvm import te, tirx

    rows, depth = data.shape
    lanes, columns = geometry.instruction.lanes, geometry.outputs
    tiles = tirx.floordiv(rows - 1, tiling.rows) + 1  # in this form, as TVM's prover knows it of what reads them
    even = geometry.width is not None and geometry.width % tiling.rows == 0
    deep = geometry.steps * geometry.step
    source = data
    if not even or deep != int(depth):

        def inside(row: Any, k: Any) -> Any:
            within = tirx.all(row < rows, k < depth)
            return tirx.if_then_else(within, data[row, k], tirx.const(0, data.dtype))

        source = te.compute((tiles * tiling.rows, deep), inside, name=PADDED)
    tiled = _sums(geometry, tiling, 1, tiles, source, weight)
    sums = _flushed(geometry, tiled, columns)
    return te.compute((rows, columns), lambda m, c: _tile_of(sums, tiling, lanes, 0, 0, m, c), name="multiplied")


def _flushed(geometry: Geometry, sums: Any, channels: int) -> Any:
    """Sums in memory, where registers of tiles must be stored, or where channels end within a vector."""
    from tvm import te

    in_registers = geometry.instruction.kind == "amx" and not geometry.depthwise
    if channels % geometry.instruction.lanes == 0 and not in_registers:
        return sums
    return te.compute(sums.shape, lambda *at: sums[at], name=FLUSHED)


def _tile_of(sums: Any, tiling: Tiling, lanes: int, n: Any, y: Any, x: Any, c: Any) -> Any:
    from tvm import tirx

    down, up = tirx.floordiv, tirx.floormod
    line = (down(y, tiling.lines), down(x, tiling.rows), up(y, tiling.lines))
    return sums[n, down(c, lanes), line[0], line[1], line[2], up(x, tiling.rows), up(c, lanes)]


def _sums(geometry: Geometry, tiling: Tiling, batch: Any, tiles: Any, source: Any, weight: Any) -> Any:
    """[n, vectors, blocks of lines, tiles, lines, rows, lanes]."""
    from tvm import te, tirx

    lanes, kind = geometry.instruction.lanes, geometry.instruction.kind
    image = len(source.shape) == 4
    (r_step, s_step), (r_gap, s_gap) = geometry.stride, geometry.dilation
    r = te.reduce_axis((0, geometry.kernel[0]), "r")
    s = te.reduce_axis((0, 1 if geometry.merged else geometry.kernel[1]), "s")

    def byte(n: Any, yo: Any, xo: Any, yi: Any, xi: Any, c: Any) -> Any:
        y, x = yo * tiling.lines + yi, xo * tiling.rows + xi
        if not image:
            return source[x, c]
        column = x * s_step + s * s_gap
        if geometry.merged:
            column, c = column + tirx.floordiv(c, geometry.held), tirx.floormod(c, geometry.held)
        return source[n, y * r_step + r * r_gap, column, c]

    if geometry.depthwise:
        axes = [r, s]

        def term(n: Any, k: Any, yo: Any, xo: Any, yi: Any, xi: Any, lane: Any) -> Any:
            number = byte(n, yo, xo, yi, xi, k * lanes + lane)
            return number.astype("int32") * weight[k, r, s, lane].astype("int32")
    else:
        group = geometry.instruction.group
        step = te.reduce_axis((0, geometry.steps), "step")
        part = te.reduce_axis((0, geometry.step // group), "part")
        inner = te.reduce_axis((0, group), "inner")
        axes = [r, s, step, part, inner]
        per_group = geometry.vectors // geometry.groups

        def term(n: Any, k: Any, yo: Any, xo: Any, yi: Any, xi: Any, lane: Any) -> Any:
            c = step * geometry.step + part * group + inner
            if geometry.groups > 1:
                c = tirx.floordiv(k, per_group) * geometry.per_group + c
            number = byte(n, yo, xo, yi, xi, c)
            return number.astype("int32") * weight[k, r, s, step, part, lane, inner].astype("int32")

    high = geometry.out_size[0]
    return te.compute(
        (
            batch,
            whole(geometry.vectors, tiling.vectors),
            -(-high // tiling.lines),
            tiles,
            tiling.lines,
            tiling.rows,
            lanes,
        ),
        lambda *at: te.sum(term(*at), axis=axes),
        name=SUMS,
        attrs={
            INTEGERS: "depthwise" if geometry.depthwise else kind,
            TILE: [tiling.lines, tiling.rows, tiling.vectors, tiling.unroll, tiling.register],
        },
    )


def _padded(geometry: Geometry, tiling: Tiling, zero: int, data: Any) -> Any:
    """The input with its border, as large as the tiles read; itself where that is its own size."""
    from tvm import te, tirx

    top, left, _, _ = geometry.padding
    (high, wide), held = geometry.out_size, geometry.held
    assert wide is not None
    across = geometry.width
    assert across is not None
    lines = whole(high, tiling.lines)
    columns = whole(wide, tiling.rows)
    tall = (lines - 1) * geometry.stride[0] + (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
    window = (
        -(-geometry.steps * geometry.step // held)
        if geometry.merged
        else (geometry.kernel[1] - 1) * geometry.dilation[1] + 1
    )
    broad = (columns - 1) * geometry.stride[1] + window
    deep = held
    if not geometry.merged and geometry.groups == 1 and not geometry.depthwise:
        deep = geometry.steps * geometry.step
    if not any(geometry.padding) and tall <= geometry.height and broad <= across and deep == held:
        return data

    def inside(n: Any, y: Any, x: Any, c: Any) -> Any:
        within = [y >= top, y < top + geometry.height, x >= left, x < left + across]
        if deep != held:
            within.append(c < held)
        return tirx.if_then_else(tirx.all(*within), data[n, y - top, x - left, c], tirx.const(zero, data.dtype))

    return te.compute((data.shape[0], tall, broad, deep), inside, name=PADDED)
