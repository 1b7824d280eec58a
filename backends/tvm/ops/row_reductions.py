"""Sums and maxima of rows, vectorized, with several accumulators: LLVM does not reassociate, so a single one would serialize."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Scalar, Size, TensorExpr

_LANES = 16
"""Floats of the widest vectors, those of AVX-512; narrower ones take several."""
_AT_ONCE = (4, 2, 1)
"""Vectors of accumulators, as many as divide the row: an addition has a latency of four cycles."""

Kind = Literal["sum", "max", "sum of squares"]


def known_size(size: Size) -> int | None:
    """A static size; None where it is dynamic."""
    from tvm import tirx

    return int(size) if isinstance(size, (int, tirx.IntImm)) else None


def reduce_rows(x: TensorExpr, kind: Kind) -> TensorExpr:
    """Reduce the last dim, of static size, of a float32 tensor: vectors first, then their lanes and the rest pairwise."""
    from tvm import te, tirx

    *outer, size = x.shape
    vectors, size = int(size) // _LANES, int(size)
    combine = te.max if kind == "max" else te.sum
    both = tirx.max if kind == "max" else lambda a, b: a + b

    def value(*at: Scalar) -> Scalar:
        return x[at] * x[at] if kind == "sum of squares" else x[at]

    if vectors < 2:
        k = te.reduce_axis((0, size), "k")
        return te.compute(outer, lambda *at: combine(value(*at, k), axis=k), name="reduced")
    count = next(count for count in _AT_ONCE if vectors % count == 0)
    wide = count * _LANES
    step = te.reduce_axis((0, vectors // count), "step")
    parts = te.compute(
        (*outer, wide), lambda *at: combine(value(*at[:-1], step * wide + at[-1]), axis=step), name="parts"
    )
    lanes = te.compute(
        (*outer, _LANES),
        lambda *at: _by_pairs([parts[(*at[:-1], i * _LANES + at[-1])] for i in range(count)], both),
        name="lanes",
    )

    def joined(*at: Scalar) -> Scalar:
        rest = [value(*at, i) for i in range(vectors * _LANES, size)]
        return _by_pairs([lanes[(*at, i)] for i in range(_LANES)] + rest, both)

    return te.compute(outer, joined, name="reduced")


def _by_pairs(values: list[Scalar], both: Callable[[Scalar, Scalar], Scalar]) -> Scalar:
    """Combine all values pairwise, neighbours first, for a short dependency chain."""
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        values = [*(both(one, other) for one, other in pairs), *values[len(values) // 2 * 2 :]]
    return values[0]
