"""Sums and maxima of rows, in as many parts as a vector has lanes: LLVM keeps the order of sums, and so would not."""

from __future__ import annotations

from typing import Any, Literal

_PARTS = 16
"""Parts that a row is reduced in: the lanes of the widest vectors, several vectors where they are narrower."""

Kind = Literal["sum", "max", "sum of squares"]


def known_size(size: Any) -> int | None:
    """A size as a number; None where it is known only when the model runs."""
    from tvm import tirx

    return int(size) if isinstance(size, (int, tirx.IntImm)) else None


def reduce_rows(x: Any, kind: Kind) -> Any:
    """Reduce the last dim, of a known size, of a float32 tensor: first every 16th element, then these and the rest."""
    from tvm import te

    *outer, size = x.shape
    whole, size = int(size) // _PARTS, int(size)
    combine = te.max if kind == "max" else te.sum

    def value(*at: Any) -> Any:
        return x[at] * x[at] if kind == "sum of squares" else x[at]

    if whole < 2:
        k = te.reduce_axis((0, size), "k")
        return te.compute(outer, lambda *at: combine(value(*at, k), axis=k), name="reduced")
    step = te.reduce_axis((0, whole), "step")
    parts = te.compute(
        (*outer, _PARTS),
        lambda *at: combine(value(*at[:-1], step * _PARTS + at[-1]), axis=step),
        name="parts",
    )
    lane = te.reduce_axis((0, _PARTS), "lane")
    joined = te.compute(outer, lambda *at: combine(parts[(*at, lane)], axis=lane), name="joined")
    if size == whole * _PARTS:
        return joined
    rest = te.reduce_axis((0, size - whole * _PARTS), "rest")
    tail = te.compute(outer, lambda *at: combine(value(*at, whole * _PARTS + rest), axis=rest), name="tail")
    return te.compute(outer, lambda *at: _both(kind, joined[at], tail[at]), name="reduced")


def _both(kind: Kind, a: Any, b: Any) -> Any:
    from tvm import tirx

    return tirx.max(a, b) if kind == "max" else a + b
