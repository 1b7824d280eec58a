"""The forms of a value that is known in codes, and how one is made of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fxopt.backends.tvm.graph.relax_utils import is_int, number_of, same
from fxopt.backends.tvm.machine.dot_instructions import instruction_of
from fxopt.backends.tvm.ops import int8_pooling, requantize
from fxopt.backends.tvm.ops.affine_value import Code, Place, Sum, coded


class Forms:
    """What is known of values: ``known`` of numbers as sums, ``codes`` of the program's codes, ``weights`` that are stored.

    A weight is int8 codes, their scales, and the axis that these lie along. ``swapped`` are codes before a swap of the last
    two dims, of values that are such a swap.
    """

    def __init__(self, floats: Any) -> None:
        self.floats = floats
        self.instruction = instruction_of(floats.choices.processor)
        self.known: dict[Any, Sum] = {}
        self.codes: dict[Any, Sum] = {}
        self.weights: dict[Any, tuple[Any, Any, int | None]] = {}
        self.swapped: dict[Any, Any] = {}
        self.integer, self.float_layers = 0, list[str]()

    def _code(self, scale: float, zero: float, low: float, high: float, given: str) -> Code:
        stored, offset = given, 0
        if given in ("uint8", "int8"):
            stored = self.instruction.stored[0]
            offset = {("uint8", "int8"): 128, ("int8", "uint8"): -128}.get((given, stored), 0)
        return Code(float(scale), int(zero) - offset, int(low) - offset, int(high) - offset, stored, given, offset)

    def _array(self, expr: Any) -> Any:
        numbers = self.floats.numbers(expr)
        return np.asarray(number_of(expr) if numbers is None else numbers)

    def _stored(self, expr: Any, code: Code) -> Any:
        return expr if not code.offset else self._shifted(expr, -code.offset, code.dtype)

    def _own_codes(self, expr: Any, code: Code) -> Any:
        return expr if not code.offset else self._shifted(expr, code.offset, code.given)

    def _shifted(self, expr: Any, by: int, dtype: str) -> Any:
        def shift(data: Any) -> Any:
            from tvm import te

            return te.compute(data.shape, lambda *at: (data[at].astype("int32") + by).astype(dtype), name="shifted")

        return self._emit(shift, expr, name="shift")

    def _emit(self, function: Callable[..., Any], *args: Any, name: str, fuses: bool = False) -> Any:
        return self.floats.emit(function, *args, name=name, fuses=fuses)

    def _on_terms(self, function: Callable[..., Any], total: Sum, arrays: list[Any], name: str) -> Any:
        from tvm import relax

        terms = [self._shaped(expr, total.place.shape) for expr, _ in total.terms]
        return self._emit(function, *terms, *(relax.const(array, "float32") for array in arrays), name=name)

    def _real(self, total: Sum) -> Any:
        """Numbers in float, in the place of a sum."""
        if "real" not in total.made:
            function, arrays = requantize.real(total)
            total.made["real"] = self._on_terms(function, total, arrays, "dequantized")
        return total.made["real"]

    def _shaped(self, expr: Any, shape: Any) -> Any:
        from tvm import relax

        return expr if same(expr.ty.shape, shape) else self.floats.builder.emit(relax.op.reshape(expr, list(shape)))

    def _usual(self, expr: Any, total: Sum, var: Any) -> Any:
        """What lies in the place of a sum, as [n, C, H, W] or in the shape of the variable."""
        if not total.place.image:
            return self._shaped(expr, var.ty.shape)
        n, _, high, wide = var.ty.shape
        expr = self._shaped(expr, (n, high, wide, total.place.held))
        return self._emit(int8_pooling.from_image(total.place.channels), expr, name="from_image")

    def _image(self, var: Any) -> Sum | None:
        """Codes of one byte as [n, H, W, held]; None if there are none."""
        total = self.known.get(var)
        if total is None or total.code is None or total.code.dtype not in ("uint8", "int8") or len(var.ty.shape) != 4:
            return None
        n, channels, high, wide = var.ty.shape
        if not all(is_int(size) for size in (channels, high, wide)):
            return None
        if not total.place.image:
            if "image" not in total.made:
                channels = int(channels)
                held = self.instruction.held(channels)
                data = self._shaped(total.terms[0][0], var.ty.shape)
                turned = self._emit(int8_pooling.to_image(channels, held, total.code.zero), data, name="to_image")
                total.made["image"] = coded(turned, total.code, Place((n, high, wide, held), channels, image=True))
            return total.made["image"]
        shape = (n, high, wide, total.place.held)
        expr = self._shaped(total.terms[0][0], shape)
        return coded(expr, total.code, Place(shape, total.place.channels, image=True))
