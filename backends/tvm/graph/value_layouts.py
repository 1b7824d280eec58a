"""The record of one value: its layouts, each materialized on first use, and its origin, where readers use that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from fxopt.backends.tvm.ops.affine_value import AffineValue
    from fxopt.backends.tvm.types import Array, Expr, Scalar, Var

Index: TypeAlias = "Callable[[list[Scalar]], list[Scalar]]"
"""Maps a position in a value to a position in another."""


@dataclass(frozen=True)
class View:
    """A value whose elements were moved but not computed: ``index`` maps its positions to those in ``source``."""

    source: Var
    index: Index
    blocked: bool
    """Whether the source is of rank 4 and in NCHWc."""
    whole: bool = True
    """Whether all elements of the source are in the value."""
    contiguous: bool = True
    """Whether they are in the same order in memory as in the source."""


@dataclass(frozen=True)
class Sections:
    """The parts of a value that was split along an axis, by their begins."""

    source: Expr
    axis: int
    begins: list[int]


@dataclass(frozen=True)
class QuantizedWeight:
    """A stored int8 weight; it has one scale, or scales along ``axis``."""

    values: Array
    scales: Array
    axis: int | None


@dataclass
class Value:
    """One value of the program. ``plain`` is in the program's own layout (NCHW), ``blocked`` in NCHWc.

    ``make_plain`` and ``make_blocked`` materialize a layout when it is first read.
    """

    plain: Expr | None = None
    blocked: Expr | None = None
    constant: Array | None = None
    make_plain: Callable[[], Expr] | None = None
    make_blocked: Callable[[], Expr] | None = None

    view: View | None = None
    sections: Sections | None = None
    transpose_of: Expr | None = None
    """The value that this is the transpose of, in the last two dims, which a matrix product reads directly."""
    broadcast_of: Array | None = None
    """The constant matrix that it repeats."""

    affine: AffineValue | None = None
    """A real value as an affine expression of quantized values or of accumulators."""
    quantized: AffineValue | None = None
    """The affine expression of a value that is itself quantized in the program."""
    weight: QuantizedWeight | None = None
    quantized_transpose_of: Expr | None = None
    """As ``transpose_of``, quantized: the buffer before the swap."""
