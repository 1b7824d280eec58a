"""Layout transforms NCHW ↔ NCHWc, as tensor expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Scalar, Size, TensorExpr, TensorFunction


def from_blocked(channels: Size, lanes: int) -> TensorFunction:
    """From [n, C / L, H, W, L] to [n, C, H, W]."""

    def transform(data: TensorExpr) -> TensorExpr:
        from tvm import te

        n, _, high, wide, _ = data.shape
        return te.compute((n, channels, high, wide), lambda n, c, y, x: data[n, c // lanes, y, x, c % lanes])

    return transform


def to_blocked(channels: int, lanes: int) -> TensorFunction:
    """From [n, C, H, W] to [n, C / L, H, W, L], padded with zeros."""

    def transform(data: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        n, _, high, wide = data.shape

        def element(n: Scalar, block: Scalar, y: Scalar, x: Scalar, lane: Scalar) -> Scalar:
            channel = block * lanes + lane
            value = data[n, channel, y, x]
            return tirx.if_then_else(channel < channels, value, tirx.const(0, "float32")) if channels % lanes else value

        return te.compute((n, -(-channels // lanes), high, wide, lanes), element)

    return transform


def mean_of_positions(channels: int, keep: bool) -> TensorFunction:
    """The mean of [n, C / L, H, W, L] over H and W: [n, C / L, 1, 1, L] if ``keep``, else [n, C]."""

    def mean(data: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        n, blocks, high, wide, lanes = data.shape
        y, x = te.reduce_axis((0, high), "y"), te.reduce_axis((0, wide), "x")
        total = te.compute((n, blocks, lanes), lambda n, b, lane: te.sum(data[n, b, y, x, lane], axis=[y, x]))
        share = tirx.const(1.0 / (int(high) * int(wide)), "float32")
        if keep:
            return te.compute((n, blocks, 1, 1, lanes), lambda n, b, y, x, lane: total[n, b, lane] * share)
        return te.compute((n, channels), lambda n, c: total[n, c // lanes, c % lanes] * share)

    return mean
