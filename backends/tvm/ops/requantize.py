"""From sums to what the next layer reads: codes, or numbers in float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fxopt.backends.tvm.ops.affine_value import Code, Sum

_SHIFT = 1.5 * 2**23
"""A float that leaves no bits for fractions: what is added to it is rounded to an integer, half to even, in its lowest bits.

TVM makes vectors of that, and not of its function for rounding.
"""
_SHIFT_BITS = int(np.float32(_SHIFT).view(np.int32))


def rounded(total: Sum, code: Code) -> tuple[Callable[..., Any], list[Any]]:
    """A tensor expression that gives a sum in codes, and the arrays it reads besides the terms.

    Factors are divided by the scale beforehand; bounds of the sum become bounds of the codes, as rounding keeps order.
    """
    inverse = np.float32(1.0) / np.float32(code.scale)
    low, high = code.range
    if total.lower is not None:
        low = int(max(low, min(high, code.of(total.lower))))
    if total.upper is not None:
        high = int(min(high, max(low, code.of(total.upper))))
    value, arrays = _linear(total, inverse)

    def compute(*operands: Any) -> Any:
        from tvm import te, tirx

        def element(*at: Any) -> Any:
            within = tirx.max(tirx.min(value(operands, at), _float(high)), _float(low))
            bits = tirx.reinterpret("int32", within + _float(_SHIFT))
            return (bits + (code.zero - _SHIFT_BITS)).astype(code.dtype)

        return te.compute(operands[0].shape, element, name="quantized")

    return compute, arrays


def real(total: Sum) -> tuple[Callable[..., Any], list[Any]]:
    """A tensor expression that gives a sum in float, and the arrays it reads besides the terms."""
    value, arrays = _linear(total, np.float32(1.0))

    def compute(*operands: Any) -> Any:
        from tvm import te, tirx

        def element(*at: Any) -> Any:
            number = value(operands, at)
            number = number if total.lower is None else tirx.max(number, _float(total.lower))
            return number if total.upper is None else tirx.min(number, _float(total.upper))

        return te.compute(operands[0].shape, element, name="dequantized")

    return compute, arrays


def _linear(total: Sum, scale: Any) -> tuple[Callable[[Any, Any], Any], list[Any]]:
    """``Σ term * factor + bias`` times ``scale``, over operands: first the terms, then the arrays."""
    arrays: list[Any] = []
    count = len(total.terms)

    def read(number: Any) -> Callable[[Any, Any], Any]:
        scaled = np.asarray(number, np.float32) * scale
        if scaled.ndim == 0:
            return lambda operands, at: _float(float(scaled))
        place = count + len(arrays)
        arrays.append(np.ascontiguousarray(scaled, np.float32))
        return lambda operands, at: operands[place][at[-1]]

    factors = [read(factor) for _, factor in total.terms]
    bias = None if np.ndim(total.bias) == 0 and float(total.bias) == 0.0 else read(total.bias)

    def value(operands: Any, at: Any) -> Any:
        number = None
        for i, factor in enumerate(factors):
            term = operands[i][at]
            term = term if operands[i].dtype == "float32" else term.astype("int32").astype("float32")
            term = term * factor(operands, at)
            number = term if number is None else number + term
        return number if bias is None else number + bias(operands, at)

    return value, arrays


def _float(number: float) -> Any:
    from tvm import tirx

    return tirx.const(float(number), "float32")
