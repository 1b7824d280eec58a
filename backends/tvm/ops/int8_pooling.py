"""Pools, means and concatenations of quantized values in NHWC with padded channels, and transforms from and to NCHW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Scalar, TensorExpr, TensorFunction


def pool(
    kind: str, size: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    out: Sequence[int], border: int,
) -> TensorFunction:  # fmt: skip
    """Maxima of windows as bytes, or their sums as int32; padded with ``border``. ``padding`` is top, left."""

    def reduce(data: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        n, high, wide, padded_channels = data.shape
        top, left = padding
        r, s = te.reduce_axis((0, size[0]), "r"), te.reduce_axis((0, size[1]), "s")
        source = data
        tall = max((out[0] - 1) * stride[0] + (size[0] - 1) * dilation[0] + 1, int(high) + top)
        broad = max((out[1] - 1) * stride[1] + (size[1] - 1) * dilation[1] + 1, int(wide) + left)
        if (tall, broad) != (int(high), int(wide)):

            def inside(n: Scalar, y: Scalar, x: Scalar, c: Scalar) -> Scalar:
                within = tirx.all(y >= top, y < top + high, x >= left, x < left + wide)
                return tirx.if_then_else(within, data[n, y - top, x - left, c], tirx.const(border, data.dtype))

            source = te.compute((n, tall, broad, padded_channels), inside, name="padded_codes")

        def element(n: Scalar, y: Scalar, x: Scalar, c: Scalar) -> Scalar:
            q = source[n, y * stride[0] + r * dilation[0], x * stride[1] + s * dilation[1], c]
            if kind == "max":
                return te.max(q, axis=[r, s])
            return te.sum(q.astype("int32"), axis=[r, s])

        return te.compute((n, *out, padded_channels), element, name="pooled")

    return reduce


def spatial_sum(data: TensorExpr) -> TensorExpr:
    """Sums over all positions, as int32 [n, 1, 1, padded channels]."""
    from tvm import te

    n, high, wide, padded_channels = data.shape
    y, x = te.reduce_axis((0, high), "y"), te.reduce_axis((0, wide), "x")
    return te.compute(
        (n, 1, 1, padded_channels),
        lambda n, i, j, c: te.sum(data[n, y, x, c].astype("int32"), axis=[y, x]),
        name="total",
    )


def concatenated(channels: Sequence[int], padded_channels: int) -> TensorFunction:
    """The first ``channels`` of each of several values, one after the other, padded to ``padded_channels``."""

    def join(*parts: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        n, high, wide, _ = parts[0].shape

        def element(n: Scalar, y: Scalar, x: Scalar, c: Scalar) -> Scalar:
            value, start = tirx.const(0, parts[0].dtype), sum(channels)
            for part, count in zip(reversed(parts), reversed(channels), strict=True):
                last = start == sum(channels) == padded_channels
                start -= count
                number = part[n, y, x, tirx.min(tirx.max(c - start, 0), count - 1)]
                value = number if last else tirx.if_then_else(c < start + count, number, value)
            return value

        return te.compute((n, high, wide, padded_channels), element, name="joined")

    return join


def nchw_to_nhwc(channels: int, padded_channels: int, fill: int) -> TensorFunction:
    """[n, C, H, W] as [n, H, W, padded_channels]."""

    def turn(data: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        n, _, high, wide = data.shape

        def element(n: Scalar, y: Scalar, x: Scalar, c: Scalar) -> Scalar:
            if padded_channels == channels:
                return data[n, c, y, x]
            return tirx.if_then_else(c < channels, data[n, c, y, x], tirx.const(fill, data.dtype))

        return te.compute((n, high, wide, padded_channels), element, name="to_image")

    return turn


def nhwc_to_nchw(channels: int) -> TensorFunction:
    """[n, H, W, padded_channels] as [n, C, H, W]."""

    def turn(data: TensorExpr) -> TensorExpr:
        from tvm import te

        n, high, wide, _ = data.shape
        return te.compute((n, channels, high, wide), lambda n, c, y, x: data[n, y, x, c], name="from_image")

    return turn
