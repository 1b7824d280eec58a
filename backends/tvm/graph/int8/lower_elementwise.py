"""Biases, residuals, factors and bounds, which are taken into the sum that a value is known as."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backends.tvm.graph.int8.value_layouts import Forms
from fxopt.backends.tvm.graph.relax_utils import is_var, name_of, number_of, same
from fxopt.backends.tvm.ops.affine_value import Place, Sum


class Sums(Forms):
    """Handlers of element-wise ops."""

    def _known_first(self, var: Any, call: Any) -> tuple[Any, Any, Sum | None]:
        """The operands, that whose sum is known first, and the sum; None if there is none of the result's shape."""
        left, right = call.args
        if left not in self.known:
            left, right = right, left
        one = self.known.get(left) if is_var(left) else None
        return left, right, one if one is not None and same(left.ty.shape, var.ty.shape) else None

    def _add(self, var: Any, call: Any) -> bool:
        left, right, one = self._known_first(var, call)
        if one is None:
            return False
        one = self._unclipped(one)
        numbers = self.floats.numbers(right)
        if numbers is not None:
            along = self._along(numbers, one, len(var.ty.shape))
            if along is None:
                return False
            self.known[var] = one.plus(along)
            return True
        if not is_var(right) or not same(right.ty.shape, var.ty.shape):
            return False
        other = self.known.get(right)
        if other is None:
            if one.place.image:
                return False
            expr = self.floats.plain(right)
            other = Sum(one.place, ((self._shaped(expr, one.place.shape), np.float32(1.0)),))
        if one.place.image != other.place.image:
            turned = self._image(right) if one.place.image else self._image(left)
            if turned is None:
                return False
            one, other = (one, turned) if one.place.image else (turned, other)
        other = self._unclipped(other)
        place = other.place if other.place.flat else one.place
        self.known[var] = Sum(place, (*one.terms, *other.terms), one.bias + other.bias)
        return True

    def _scale(self, var: Any, call: Any) -> bool:
        _, right, one = self._known_first(var, call)
        if one is None:
            return False
        numbers = self.floats.numbers(right)
        if numbers is not None:
            along = self._along(numbers, one, len(var.ty.shape))
            if along is None:
                return False
            self.known[var] = self._unclipped(one).times(along)
            return True
        other = self.known.get(right) if is_var(right) else None
        if other is None or not (one.place.image and other.place.image):
            return False
        from tvm import relax

        n, channels, high, wide = right.ty.shape
        if not same((channels,), (var.ty.shape[1],)):
            return False
        gate = self._shaped(self._real(other), (n, high, wide, other.place.held))
        n, _, high, wide = var.ty.shape
        data = self._shaped(self._real(one), (n, high, wide, one.place.held))
        made = self.floats.builder.emit(relax.op.multiply(data, gate))
        place = Place(tuple(made.ty.shape), one.place.channels, image=True)
        self.known[var] = Sum(place, ((made, np.float32(1.0)),))
        return True

    def _along(self, numbers: Any, total: Sum, rank: int) -> Any:
        """Numbers, one or one a channel, over the held channels of a sum; None where they differ in other dims."""
        if numbers.size == 1:
            return np.float32(numbers.reshape(()))
        shape = (1,) * (rank - numbers.ndim) + numbers.shape
        axis = 1 if total.place.image else rank - 1
        if numbers.size != shape[axis] or numbers.size != total.place.channels:
            return None
        return np.pad(numbers.reshape(-1).astype(np.float32), (0, total.place.held - numbers.size))

    def _unclipped(self, total: Sum) -> Sum:
        """A sum without bounds; one term where the numbers are in memory anyway, or sums of sums would grow with the depth."""
        if not total.clipped and "real" not in total.made:
            return total
        return Sum(total.place, ((self._real(total), np.float32(1.0)),))

    def _bound(self, var: Any, call: Any) -> bool:
        total = self.known.get(call.args[0])
        if total is None:
            return False
        if name_of(call) == "relax.clip":
            low, high = (float(number_of(value)) for value in call.args[1:3])
        else:
            low, high = 0.0, 6.0 if name_of(call) == "relax.nn.relu6" else np.inf
        if total.upper is not None and low > total.upper:
            return False
        self.known[var] = total.clip(None if low == -np.inf else low, None if high == np.inf else high)
        return True

    def _elementwise(self, var: Any, call: Any) -> bool:
        from tvm.ir import Call

        total = self.known.get(call.args[0])
        if total is None:
            return False
        made = Call(call.op, [self._real(total), *call.args[1:]], call.attrs, call.ty_args)
        self.known[var] = Sum(total.place, ((self.floats.builder.emit(made), np.float32(1.0)),))
        return True
