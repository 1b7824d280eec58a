"""The epilogue of integer kernels: int32 accumulators requantized for the next layer, or dequantized to float."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.ops.affine_value import AffineValue, Coefficient, QuantParams

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Scalar, TensorExpr, TensorFunction

    _Operands = tuple[TensorExpr, ...]
    _Indices = tuple[Scalar, ...]
    _Read = Callable[[_Operands, _Indices], Scalar]

_SHIFT = 1.5 * 2**23
"""A float with no bits for fractions: adding a value to it rounds the value to an integer, half to even, in the lowest bits.

A float32 has 23 bits of mantissa, and half of 2**23 more keeps the sum above 2**23 for negative values too. TVM vectorizes
this, and not its own rounding function.
"""
_SHIFT_BITS = int(np.float32(_SHIFT).view(np.int32))


def quantize(value: AffineValue, params: QuantParams) -> tuple[TensorFunction, list[Array]]:
    """A function that quantizes an affine value, of its terms and of the arrays that are returned too.

    Factors are divided by the scale beforehand; bounds of the value become bounds in steps, as rounding is monotonic.
    """
    inverse = np.float32(1.0) / np.float32(params.scale)
    low, high = params.range
    if value.lower is not None:
        low = int(max(low, min(high, params.steps(value.lower))))
    if value.upper is not None:
        high = int(min(high, max(low, params.steps(value.upper))))
    real, arrays = _linear(value, inverse)

    def compute(*operands: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        def element(*at: Scalar) -> Scalar:
            clipped = tirx.max(tirx.min(real(operands, at), _float(high)), _float(low))
            bits = tirx.reinterpret("int32", clipped + _float(_SHIFT))
            return (bits + (params.zero - _SHIFT_BITS)).astype(params.dtype)

        return te.compute(operands[0].shape, element, name="quantized")

    return compute, arrays


def dequantize(value: AffineValue) -> tuple[TensorFunction, list[Array]]:
    """A function that computes an affine value in float, of its terms and of the arrays that are returned too."""
    real, arrays = _linear(value, np.float32(1.0))

    def compute(*operands: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        def element(*at: Scalar) -> Scalar:
            clipped = real(operands, at)
            clipped = clipped if value.lower is None else tirx.max(clipped, _float(value.lower))
            return clipped if value.upper is None else tirx.min(clipped, _float(value.upper))

        return te.compute(operands[0].shape, element, name="dequantized")

    return compute, arrays


def _linear(value: AffineValue, scale: np.float32) -> tuple[_Read, list[Array]]:
    """``Σ term * factor + bias`` times ``scale``, over operands: first the terms, then the arrays."""
    arrays: list[Array] = []
    count = len(value.terms)

    def read(coefficient: Coefficient) -> _Read:
        scaled = np.asarray(coefficient, np.float32) * scale
        if scaled.ndim == 0:
            return lambda operands, at: _float(float(scaled))
        operand = count + len(arrays)
        arrays.append(np.ascontiguousarray(scaled, np.float32))
        return lambda operands, at: operands[operand][at[-1]]

    factors = [read(factor) for _, factor in value.terms]
    bias = None if np.ndim(value.bias) == 0 and float(value.bias) == 0.0 else read(value.bias)

    def linear(operands: _Operands, at: _Indices) -> Scalar:
        total: Scalar | None = None
        for i, factor in enumerate(factors):
            term = operands[i][at]
            term = term if operands[i].dtype == "float32" else term.astype("int32").astype("float32")
            term = term * factor(operands, at)
            total = term if total is None else total + term
        return total if bias is None else total + bias(operands, at)

    return linear, arrays


def _float(number: float) -> Scalar:
    from tvm import tirx

    return tirx.const(float(number), "float32")
