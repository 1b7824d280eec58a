"""Facts that hold for an op whatever its operands are: traits, in the sense of MLIR, and the row that has them.

A pass asks for the trait that it relies on (:func:`fxopt.ir.op_table.has`), so that a new op is one row and no pass has to
change. Every definition is checked against torch in ``tests/ir/test_op_traits.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto

from torch import fx

Shape = Callable[[fx.Node], tuple[int, ...]]
"""Returns the concrete shape of a node's value."""

Bound = str | float | None
"""A bound of a clamp: the argument that holds it, a number, or none."""


class Trait(Flag):
    """Named facts. f is the op, x its float operands, y the other arguments; dropout is taken in evaluation."""

    ELEMENTWISE = auto()
    """An element of the result depends on that element of the operands alone, with broadcasting."""
    CONTINUOUS = auto()
    """A small enough change of x makes an arbitrarily small one of f(x), wherever f is defined."""
    ZERO_PRESERVING = auto()
    """Where the first operand is zero the result is zero, in training too."""
    IDEMPOTENT = auto()
    """f(f(x, y), y) = f(x, y)."""
    HOMOGENEOUS = auto()
    """f(a · x) = a · f(x) for a > 0, where all operands in x are scaled; of two operands neither is a number."""
    HOMOGENEOUS_IN_FIRST = auto()
    """f(a · x, y) = a · f(x, y) for a > 0, where x is the first operand and all others are in y."""
    SHIFT_EQUIVARIANT = auto()
    """f(x + c) = f(x) + c for a number c."""
    KEEPS_FORM = auto()
    """For a contiguous float tensor, the result has the same shape, dtype and strides."""
    SAME_VALUE = auto()
    """The result equals the operand, maybe in memory of its own."""
    CAST = auto()
    """The result is the operand in another dtype, on another device, or unchanged."""
    DROPOUT = auto()
    """With ``train=False`` the operand itself, with ``train=True`` some of it dropped at random."""
    REARRANGES = auto()
    """Each element of the result is one of an operand's, or a pad's ``value``; which one depends on sizes and arguments alone."""
    SAME_SHAPE_IS_SAME_VALUE = auto()
    """Where the result has the operand's shape it equals the operand."""
    SELECTS = auto()
    """A reduction that selects an element, its index, or whether there is one; it sums nothing."""
    UNROUNDED = auto()
    """Nothing is rounded: for float32 operands the results in float32 and in float64 are equal."""
    NEEDS_FLOAT32 = auto()
    """Its result is inaccurate for x in half precision, or soon exceeds the range."""
    BOUND_TO_STRIDES = auto()
    """Views memory, so that it may refuse an operand with other strides."""
    READS_FORM_ONLY = auto()
    """Reads sizes, strides or a dtype of its operand, and none of its values."""


NONE = Trait(0)


@dataclass(frozen=True)
class Op:
    """One row: the family, the traits, the bounds of an op that clamps, and how to count multiply-accumulates."""

    family: str
    traits: Trait = NONE
    bounds: tuple[Bound, Bound] | None = None
    macs: Callable[[fx.Node, Shape], int] | None = None
