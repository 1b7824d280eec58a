"""Reshapes, permutations, slices and splits, as views: they are done when the result is read, in one kernel.

A view has its source and an index map from its elements to those of the source: several parts of one permuted value, such as
queries, keys and values, each read that value directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.graph.relax_utils import axes_of, ints, is_int, swaps_last
from fxopt.backends.tvm.graph.rules import TUPLE_ITEM, rule
from fxopt.backends.tvm.graph.value_layouts import Sections
from fxopt.backends.tvm.graph.views import move, reshape_index

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Call, Expr, Scalar, TupleGetItem, Var


@rule("relax.reshape", "relax.expand_dims", "relax.squeeze")
def reshape(lowering: Lowering, var: Var, call: Call) -> bool:
    """Another shape of the same elements in the same order."""
    index = reshape_index(list(call.args[0].ty.shape), list(var.ty.shape))
    return move(lowering, var, call.args[0], index, contiguous=True)


@rule("relax.permute_dims")
def permute(lowering: Lowering, var: Var, call: Call) -> bool:
    """A permutation; a matrix product reads through a swap of the last dims, all else reads the view."""
    axes = axes_of(call)
    if swaps_last(axes):
        lowering.value(var).transpose_of = call.args[0]
    inverse = [axes.index(axis) for axis in range(len(axes))]
    return move(lowering, var, call.args[0], lambda at: [at[axis] for axis in inverse])


@rule("relax.strided_slice")
def strided_slice(lowering: Lowering, var: Var, call: Call) -> bool:
    """A slice with constant begins and positive steps."""
    axes, begins, _, *strides = (_constants(arg) for arg in call.args[1:])
    steps = strides[0] if strides else [1] * len(axes or ())
    if axes is None or begins is None or steps is None or min(*begins, *steps) < 0:
        return False
    of = {axis % len(var.ty.shape): (begin, step) for axis, begin, step in zip(axes, begins, steps, strict=True)}

    def index(at: list[Scalar]) -> list[Scalar]:
        return [of[axis][0] + i * of[axis][1] if axis in of else i for axis, i in enumerate(at)]

    return move(lowering, var, call.args[0], index, whole=False)


@rule("relax.split")
def split(lowering: Lowering, var: Var, call: Call) -> bool:
    """Record where the parts begin, which are views; the split itself stays, and is dropped if nothing reads it."""
    source, axis, parts = call.args[0], int(call.attrs.axis), call.attrs.indices_or_sections
    axis, size = axis % len(source.ty.shape), source.ty.shape[axis]
    if is_int(parts):
        if not is_int(size):
            return False
        parts = range(0, int(size), -(-int(size) // int(parts)))[1:]
    lowering.value(var).sections = Sections(source, axis, [0, *ints(parts)])
    return False


@rule(TUPLE_ITEM)
def section(lowering: Lowering, var: Var, item: TupleGetItem) -> bool:
    """One part of a split value."""
    sections = lowering.value(item.tuple_value).sections
    if sections is None:
        return False
    begin = sections.begins[item.index]

    def index(at: list[Scalar]) -> list[Scalar]:
        return [i + begin if axis == sections.axis else i for axis, i in enumerate(at)]

    return move(lowering, var, sections.source, index, whole=False)


@rule("relax.broadcast_to")
def broadcast(lowering: Lowering, var: Var, call: Call) -> bool:
    """Drop a broadcast to the same shape, and record a constant matrix that is repeated, which a product reads once."""
    from tvm_ffi import structural_equal

    source, constant = call.args[0], lowering.constant(call.args[0])
    if constant is not None and constant.ndim == 2 and len(var.ty.shape) > 2:
        lowering.value(var).broadcast_of = constant
    shapes = source.ty.shape, var.ty.shape
    if constant is None and len(shapes[0]) == len(shapes[1]) and all(map(structural_equal, *shapes)):
        lowering.value(var).plain = lowering.plain(source)
        return True
    return False


def _constants(expr: Expr) -> list[int] | None:
    """A tuple of constants; None for another."""
    try:
        return [int(field.value) for field in expr.fields]
    except (AttributeError, TypeError):
        return None
