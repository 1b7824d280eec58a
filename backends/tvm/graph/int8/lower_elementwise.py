"""Biases, residuals, factors and bounds, which are folded into the affine value of their operand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.graph.int8.value_layouts import define_affine, dequantized, quantized_nhwc, reshaped
from fxopt.backends.tvm.graph.relax_utils import is_var, op_name, same_shape, scalar_of
from fxopt.backends.tvm.graph.rules import quantized_rule
from fxopt.backends.tvm.ops.affine_value import AffineValue, BufferLayout, Coefficient, of_real

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Array, Call, Expr, Var


def _affine_first(lowering: Lowering, var: Var, call: Call) -> tuple[Expr, Expr, AffineValue | None]:
    """The operands, an affine one first, and its value; None if there is none of the result's shape."""
    left, right = call.args
    if lowering.value(left).affine is None:
        left, right = right, left
    affine = lowering.value(left).affine if is_var(left) else None
    return left, right, affine if affine is not None and same_shape(left.ty.shape, var.ty.shape) else None


@quantized_rule("relax.add")
def add(lowering: Lowering, var: Var, call: Call) -> bool:
    """A bias for each channel, or another value of the same shape."""
    left, right, one = _affine_first(lowering, var, call)
    if one is None:
        return False
    one = _unclipped(lowering, one)
    constant = lowering.constant(right)
    if constant is not None:
        offset = _of_channels(constant, one, len(var.ty.shape))
        return offset is not None and define_affine(lowering, var, one.plus(offset))
    if not is_var(right) or not same_shape(right.ty.shape, var.ty.shape):
        return False
    other = lowering.value(right).affine
    if other is None:
        if one.layout.nhwc:
            return False
        other = of_real(reshaped(lowering, lowering.plain(right), one.layout.shape), one.layout)
    if one.layout.nhwc != other.layout.nhwc:
        moved = quantized_nhwc(lowering, right if one.layout.nhwc else left)
        if moved is None:
            return False
        one, other = (one, moved) if one.layout.nhwc else (moved, other)
    other = _unclipped(lowering, other)
    layout = other.layout if other.layout.flat else one.layout
    return define_affine(lowering, var, AffineValue(layout, (*one.terms, *other.terms), one.bias + other.bias))


@quantized_rule("relax.multiply")
def multiply(lowering: Lowering, var: Var, call: Call) -> bool:
    """A factor for each channel, or a gate of [n, C, 1, 1] in NHWC."""
    from tvm import relax

    _, right, one = _affine_first(lowering, var, call)
    if one is None:
        return False
    constant = lowering.constant(right)
    if constant is not None:
        factor = _of_channels(constant, one, len(var.ty.shape))
        return factor is not None and define_affine(lowering, var, _unclipped(lowering, one).times(factor))
    other = lowering.value(right).affine if is_var(right) else None
    if other is None or not (one.layout.nhwc and other.layout.nhwc):
        return False
    n, channels, high, wide = right.ty.shape
    if not same_shape((channels,), (var.ty.shape[1],)):
        return False
    gate = reshaped(lowering, dequantized(lowering, other), (n, high, wide, other.layout.padded_channels))
    n, _, high, wide = var.ty.shape
    data = reshaped(lowering, dequantized(lowering, one), (n, high, wide, one.layout.padded_channels))
    made = lowering.emit(relax.op.multiply(data, gate))
    layout = BufferLayout(tuple(made.ty.shape), one.layout.channels, nhwc=True)
    return define_affine(lowering, var, of_real(made, layout))


@quantized_rule("relax.nn.relu", "relax.clip")
def clip(lowering: Lowering, var: Var, call: Call) -> bool:
    """Bounds; declined where the new lower one is above the old upper one."""
    affine = lowering.value(call.args[0]).affine
    if affine is None:
        return False
    if op_name(call) == "relax.clip":
        low, high = (float(scalar_of(value)) for value in call.args[1:3])
    else:
        low, high = 0.0, np.inf
    if affine.upper is not None and low > affine.upper:
        return False
    clipped = affine.clip(None if low == -np.inf else low, None if high == np.inf else high)
    return define_affine(lowering, var, clipped)


@quantized_rule(
    "relax.nn.leakyrelu", "relax.nn.silu", "relax.nn.gelu", "relax.nn.gelu_tanh", "relax.sigmoid", "relax.tanh",
    "relax.erf", "relax.negative", "relax.abs", "relax.square",
)  # fmt: skip
def unary(lowering: Lowering, var: Var, call: Call) -> bool:
    """In float, in the layout of the affine value."""
    from tvm.ir import Call

    affine = lowering.value(call.args[0]).affine
    if affine is None:
        return False
    made = Call(call.op, [dequantized(lowering, affine), *call.args[1:]], call.attrs, call.ty_args)
    return define_affine(lowering, var, of_real(lowering.emit(made), affine.layout))


def _of_channels(constant: Array, affine: AffineValue, rank: int) -> Coefficient | None:
    """A constant, a scalar or one for each channel, padded as the channels are; None where it varies along other dims."""
    if constant.size == 1:
        return np.float32(constant.reshape(()))
    shape, layout = (1,) * (rank - constant.ndim) + constant.shape, affine.layout
    axis = 1 if layout.nhwc else rank - 1
    if constant.size != shape[axis] or constant.size != layout.channels:
        return None
    return np.pad(constant.reshape(-1).astype(np.float32), (0, layout.padded_channels - constant.size))


def _unclipped(lowering: Lowering, affine: AffineValue) -> AffineValue:
    """A value without bounds; as one float term where it is in memory anyway, or terms would multiply with depth."""
    if not affine.is_clipped and affine.materialized.real is None:
        return affine
    return of_real(dequantized(lowering, affine), affine.layout)
