"""Quantize and dequantize ops, which most often compute nothing: the ops between them are done in integers.

The result of a dequantize op is recorded as an affine value with one term, the quantized value. The result of a convolution or
product of quantized values is an affine value whose term is the accumulators; biases, residuals and bounds are folded into
it; and a quantize op requantizes it, in the epilogue of the contraction's kernel. Any other op gets floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.frontend.provenance import DEQUANTIZE, QUANTIZE
from fxopt.backends.tvm.graph.int8.value_layouts import (
    constant_or_scalar,
    define_affine,
    define_quantized,
    of_terms,
    quant_params,
    stored,
)
from fxopt.backends.tvm.graph.relax_utils import channels_of, scalar_of
from fxopt.backends.tvm.graph.rules import quantized_rule
from fxopt.backends.tvm.graph.value_layouts import QuantizedWeight
from fxopt.backends.tvm.ops.affine_value import BufferLayout, of_quantized, of_real
from fxopt.backends.tvm.ops.requantize import quantize as requantize

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Array, Call, Expr, Var


@quantized_rule(QUANTIZE)
def quantize(lowering: Lowering, var: Var, call: Call) -> bool:
    """Requantize an affine value, or quantize floats; nothing where the value is quantized by the same parameters."""
    _, x, *scalars = call.args
    scale, zero, low, high = map(scalar_of, scalars)
    params = quant_params(lowering, scale, zero, low, high, str(var.ty.dtype.dtype))
    affine = lowering.value(x).affine
    if affine is None:
        affine = of_real(lowering.plain(x), _own_layout(x))
    if affine.params != params:
        function, arrays = requantize(affine, params)
        affine = of_quantized(of_terms(lowering, function, affine, arrays, "quantized"), params, affine.layout)
    return define_quantized(lowering, var, affine)


@quantized_rule(DEQUANTIZE)
def dequantize(lowering: Lowering, var: Var, call: Call) -> bool:
    """Record the affine value of a quantized one; a weight is also dequantized at build time, for readers in float."""
    _, q, scale, zero, axis, low, high = call.args
    weight, given = lowering.constant(q), str(q.ty.dtype.dtype)
    scales, zeros = constant_or_scalar(lowering, scale), constant_or_scalar(lowering, zero)
    if weight is not None:
        along = None if scales.ndim == 0 else int(scalar_of(axis))
        if given == "int8" and not zeros.any():
            lowering.value(var).weight = QuantizedWeight(weight, scales, along)
        lowering.value(var).constant = _real_weight(weight, scales, zeros, along)
        return True
    affine = lowering.value(q).quantized
    if affine is None:
        if scales.ndim:
            raise ValueError("activations have a scale for each channel, and only weights may")
        params = quant_params(lowering, float(scales), int(zeros), scalar_of(low), scalar_of(high), given)
        affine = of_quantized(stored(lowering, lowering.plain(q), params), params, _own_layout(q))
        define_quantized(lowering, q, affine)
    return define_affine(lowering, var, affine)


def _own_layout(expr: Expr) -> BufferLayout:
    shape = tuple(expr.ty.shape)
    return BufferLayout(shape, channels_of(shape))


def _real_weight(weight: Array, scales: Array, zeros: Array, axis: int | None) -> Array:
    spread = [1] * weight.ndim
    if axis is not None:
        spread[axis] = -1
    real = (weight.astype(np.float32) - zeros.astype(np.float32).reshape(spread)) * scales.reshape(spread)
    return real.astype(np.float32).reshape(weight.shape)
