"""Operands of int8 kernels: inputs padded to whole tiles, or the window of each position gathered (im2col)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.ops.block_names import PADDED
from fxopt.backends.tvm.tiling.int8 import Tiling
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import round_up

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Scalar, TensorExpr


def pad_to_tiles(geometry: Geometry, tiling: Tiling, zero: int, data: TensorExpr) -> TensorExpr:
    """The input padded to the size that the tiles read; itself where that is its own size."""
    from tvm import te, tirx

    top, left, _, _ = geometry.padding
    (high, wide), channels = geometry.out_size, geometry.padded_channels
    assert wide is not None
    across = geometry.width
    assert across is not None
    lines = round_up(high, tiling.lines)
    columns = round_up(wide, tiling.rows)
    tall = (lines - 1) * geometry.stride[0] + (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
    window = (
        -(-geometry.steps * geometry.step // channels)
        if geometry.merged
        else (geometry.kernel[1] - 1) * geometry.dilation[1] + 1
    )
    broad = (columns - 1) * geometry.stride[1] + window
    deep = channels
    if not geometry.merged and geometry.groups == 1 and not geometry.depthwise:
        deep = geometry.steps * geometry.step
    if not any(geometry.padding) and tall <= geometry.height and broad <= across and deep == channels:
        return data

    def inside(n: Scalar, y: Scalar, x: Scalar, c: Scalar) -> Scalar:
        within = [y >= top, y < top + geometry.height, x >= left, x < left + across]
        if deep != channels:
            within.append(c < channels)
        return tirx.if_then_else(tirx.all(*within), data[n, y - top, x - left, c], tirx.const(zero, data.dtype))

    return te.compute((data.shape[0], tall, broad, deep), inside, name=PADDED)


def im2col(geometry: Geometry, tiling: Tiling, zero: int, data: TensorExpr) -> TensorExpr:
    """The window of each position, [n, positions, r, s, channels], padded to whole tiles."""
    from tvm import te, tirx

    of = geometry.windows_of
    assert of is not None
    (top, left), (high, wide) = of.padding[:2], of.out_size
    assert wide is not None
    assert of.width is not None
    last, width = high * wide - 1, of.width

    def element(n: Scalar, p: Scalar, r: Scalar, s: Scalar, c: Scalar) -> Scalar:
        place = tirx.min(p, last)
        y = tirx.floordiv(place, wide) * of.stride[0] + r * of.dilation[0] - top
        x = tirx.floormod(place, wide) * of.stride[1] + s * of.dilation[1] - left
        if not any(of.padding):
            return data[n, y, x, c]
        inside = tirx.all(y >= 0, y < of.height, x >= 0, x < width)
        return tirx.if_then_else(inside, data[n, y, x, c], tirx.const(zero, data.dtype))

    shape = (data.shape[0], round_up(high * wide, tiling.rows), *of.kernel, of.padded_channels)
    return te.compute(shape, element, name=PADDED)
