"""The layouts of quantized and affine values, and conversions between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.graph.relax_utils import is_int, same_shape, scalar_of
from fxopt.backends.tvm.ops import int8_pooling, requantize
from fxopt.backends.tvm.ops.affine_value import AffineValue, BufferLayout, QuantParams, of_quantized

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Array, Expr, Shape, TensorExpr, TensorFunction, Var


def define_affine(lowering: Lowering, var: Var, affine: AffineValue) -> bool:
    """Define a variable as an affine value, which is dequantized where a float layout is read. True, for rules to return."""
    value = lowering.value(var)
    value.affine = affine
    value.make_plain = lambda: in_plain_layout(lowering, dequantized(lowering, affine), affine.layout, var)
    return True


def define_quantized(lowering: Lowering, var: Var, affine: AffineValue) -> bool:
    """Define a quantized variable of the program as the only term of an affine value. True, for rules to return."""
    value, params = lowering.value(var), affine.params
    assert params is not None
    value.quantized = affine

    def own() -> Expr:
        expr = in_plain_layout(lowering, affine.buffer, affine.layout, var)
        return _shifted(lowering, expr, params.offset, params.given) if params.offset else expr

    value.make_plain = own
    return True


def quant_params(lowering: Lowering, scale: float, zero: float, low: float, high: float, given: str) -> QuantParams:
    """The program's quantization parameters, with bytes stored in the signedness that the instruction needs."""
    dtype, offset = given, 0
    if given in ("uint8", "int8"):
        dtype = lowering.instruction.stored[0]
        offset = {("uint8", "int8"): 128, ("int8", "uint8"): -128}.get((given, dtype), 0)
    return QuantParams(float(scale), int(zero) - offset, int(low) - offset, int(high) - offset, dtype, given, offset)


def stored(lowering: Lowering, expr: Expr, params: QuantParams) -> Expr:
    """The program's own quantized value as kernels store it."""
    return _shifted(lowering, expr, -params.offset, params.dtype) if params.offset else expr


def _shifted(lowering: Lowering, expr: Expr, by: int, dtype: str) -> Expr:
    def shift(data: TensorExpr) -> TensorExpr:
        from tvm import te

        return te.compute(data.shape, lambda *at: (data[at].astype("int32") + by).astype(dtype), name="shifted")

    return lowering.emit_te(shift, expr, name="shift")


def constant_or_scalar(lowering: Lowering, expr: Expr) -> Array:
    """A constant as an array, of rank 0 where it is an immediate."""
    constant = lowering.constant(expr)
    return np.asarray(scalar_of(expr) if constant is None else constant)


def of_terms(lowering: Lowering, function: TensorFunction, affine: AffineValue, arrays: list[Array], name: str) -> Expr:
    """The result of a function of the terms of an affine value, followed by arrays."""
    from tvm import relax

    terms = [reshaped(lowering, expr, affine.layout.shape) for expr, _ in affine.terms]
    return lowering.emit_te(function, *terms, *(relax.const(array, "float32") for array in arrays), name=name)


def dequantized(lowering: Lowering, affine: AffineValue) -> Expr:
    """An affine value in float, in its own layout."""
    made = affine.materialized
    if made.real is None:
        function, arrays = requantize.dequantize(affine)
        made.real = of_terms(lowering, function, affine, arrays, "dequantized")
    return made.real


def reshaped(lowering: Lowering, expr: Expr, shape: Shape) -> Expr:
    """An expression in another shape; itself if it has that."""
    from tvm import relax

    return expr if same_shape(expr.ty.shape, shape) else lowering.emit(relax.op.reshape(expr, list(shape)))


def in_plain_layout(lowering: Lowering, expr: Expr, layout: BufferLayout, var: Var) -> Expr:
    """A buffer of a layout as [n, C, H, W], or in the shape of the variable."""
    if not layout.nhwc:
        return reshaped(lowering, expr, var.ty.shape)
    n, _, high, wide = var.ty.shape
    expr = reshaped(lowering, expr, (n, high, wide, layout.padded_channels))
    return lowering.emit_te(int8_pooling.nhwc_to_nchw(layout.channels), expr, name="from_image")


def quantized_nhwc(lowering: Lowering, var: Expr) -> AffineValue | None:
    """Quantized bytes as [n, H, W, padded channels]; None if the value is no such image."""
    affine = lowering.value(var).affine
    if affine is None or affine.params is None or not affine.params.is_byte or len(var.ty.shape) != 4:
        return None
    n, channels, high, wide = var.ty.shape
    if not all(is_int(size) for size in (channels, high, wide)):
        return None
    if not affine.layout.nhwc:
        if affine.materialized.nhwc is None:
            channels = int(channels)
            padded = lowering.instruction.padded_channels(channels)
            data = reshaped(lowering, affine.buffer, var.ty.shape)
            to_nhwc = int8_pooling.nchw_to_nhwc(channels, padded, affine.params.zero)
            data = lowering.emit_te(to_nhwc, data, name="to_image")
            layout = BufferLayout((n, high, wide, padded), channels, nhwc=True)
            affine.materialized.nhwc = of_quantized(data, affine.params, layout)
        return affine.materialized.nhwc
    shape = (n, high, wide, affine.layout.padded_channels)
    expr = reshaped(lowering, affine.buffer, shape)
    return of_quantized(expr, affine.params, BufferLayout(shape, affine.layout.channels, nhwc=True))
