"""Goes through a program beside the float rewriter, and keeps in codes what can be: see ``Integers``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fxopt.backends.tvm.graph.int8.lower_contractions import Layers
from fxopt.backends.tvm.graph.int8.lower_data_movement import Moves
from fxopt.backends.tvm.graph.int8.lower_elementwise import Sums
from fxopt.backends.tvm.graph.relax_utils import channels_of, name_of, number_of
from fxopt.backends.tvm.machine.dot_instructions import SPOKEN
from fxopt.backends.tvm.ops import requantize
from fxopt.backends.tvm.ops.affine_value import Place, Sum, coded

QUANTIZE, DEQUANTIZE = "fxopt.quantize", "fxopt.dequantize"
"""Calls in an imported module: (x, scale, zero point, low, high), and (codes, scale, zero point, axis, low, high)."""
_MOVES = ("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims")
_ELEMENTWISE = (
    "relax.nn.leakyrelu", "relax.nn.silu", "relax.nn.gelu", "relax.nn.gelu_tanh", "relax.sigmoid", "relax.tanh",
    "relax.erf", "relax.negative", "relax.abs", "relax.square",
)  # fmt: skip


class Integers(Layers, Sums, Moves):
    """What is known of values in codes, and the handlers of ops that read them.

    A dequantize op computes nothing: its result is known as a sum with one term, the codes. A convolution or product of
    codes gives a sum whose term is the integer sums; biases, residuals and bounds go into the sum as they come; and a
    quantize op computes codes of it, at the end of the kernel that multiplies. Any other op is given numbers in float.
    """

    def __init__(self, floats: Any) -> None:
        super().__init__(floats)
        self._handlers: dict[str, Callable[[Any, Any], bool]] = {
            QUANTIZE: self._quantize, DEQUANTIZE: self._dequantize, "relax.nn.conv2d": self._convolve,
            "relax.matmul": self._multiply, "relax.add": self._add, "relax.multiply": self._scale,
            "relax.nn.relu": self._bound, "relax.nn.relu6": self._bound, "relax.clip": self._bound,
            "relax.nn.max_pool2d": self._pool, "relax.nn.avg_pool2d": self._pool, "relax.mean": self._mean,
            "relax.concat": self._concat, "relax.broadcast_to": self._broadcast, **dict.fromkeys(_MOVES, self._move),
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
        }  # fmt: skip

    def bind(self, var: Any, call: Any) -> bool:
        """Rewrite one binding; False if it is to be done in float."""
        handler = self._handlers.get(name_of(call))
        if handler is not None and handler(var, call):
            return True
        if name_of(call) in ("relax.nn.conv2d", "relax.matmul"):
            self._note(var, call)
        return False

    def facts(self) -> dict[str, Any]:
        """For the report: how many convolutions and products are computed in integers, and why others are in float."""
        counts = {"integer_contractions": self.integer, "float_contractions": len(self.float_layers)}
        if not (self.codes or self.weights):
            return counts
        return counts | {"float_because": self.float_layers, "integer_instruction": SPOKEN[self.instruction.kind]}

    def plain(self, var: Any) -> Any:
        """A value in the usual form: numbers in float, or the program's own codes; None if nothing is known of it."""
        if var in self.known:
            return self._usual(self._real(self.known[var]), self.known[var], var)
        if var in self.codes:
            total = self.codes[var]
            assert total.code is not None
            expr = self._usual(total.terms[0][0], total, var)
            return self._own_codes(expr, total.code)
        return None

    def _quantize(self, var: Any, call: Any) -> bool:
        _, x, *numbers = call.args
        scale, zero, low, high = (number_of(value) for value in numbers)
        code = self._code(scale, zero, low, high, str(var.ty.dtype.dtype))
        total = self.known.get(x)
        if total is None:
            shape = tuple(x.ty.shape)
            total = Sum(Place(shape, channels_of(shape)), ((self.floats.plain(x), np.float32(1.0)),))
        if total.code != code:
            function, arrays = requantize.rounded(total, code)
            total = coded(self._on_terms(function, total, arrays, "quantized"), code, total.place)
        self.codes[var] = total
        return True

    def _dequantize(self, var: Any, call: Any) -> bool:
        _, q, scale, zero, axis, low, high = call.args
        numbers, given = self.floats.numbers(q), str(q.ty.dtype.dtype)
        scales, zeros = self._array(scale), self._array(zero)
        if numbers is not None:
            along = None if scales.ndim == 0 else int(number_of(axis))
            if given == "int8" and not zeros.any():
                self.weights[var] = numbers, scales, along
            spread = [1] * numbers.ndim
            if along is not None:
                spread[along] = -1
            real = (numbers.astype(np.float32) - zeros.astype(np.float32).reshape(spread)) * scales.reshape(spread)
            self.floats.set_numbers(var, real.astype(np.float32).reshape(numbers.shape))
            return True
        if q not in self.codes:
            if scales.ndim:
                raise ValueError("activations have a scale for each channel, and only weights may")
            code = self._code(float(scales), int(zeros), number_of(low), number_of(high), given)
            shape = tuple(q.ty.shape)
            self.codes[q] = coded(self._stored(self.floats.plain(q), code), code, Place(shape, channels_of(shape)))
        self.known[var] = self.codes[q]
        return True
