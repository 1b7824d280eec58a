"""Pools, means, concatenations and changes of shape, on codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backends.tvm.graph.int8.value_layouts import Forms
from fxopt.backends.tvm.graph.relax_utils import axes_of, channels_of, ints, is_var, name_of, same, swaps_last
from fxopt.backends.tvm.ops import int8_pooling
from fxopt.backends.tvm.ops.affine_value import Code, Place, Sum, coded


class Moves(Forms):
    """Handlers of ops that move codes, or take their maximum or mean."""

    def _move(self, var: Any, call: Any) -> bool:
        from tvm.ir import Call

        source = call.args[0]
        if is_var(source) and source in self.weights:
            self._move_weight(var, call)
            return False
        total = self.known.get(source)
        if total is None:
            return False
        old, new = list(source.ty.shape), list(var.ty.shape)
        same_rows = name_of(call) == "relax.reshape" and same(old[-1:], new[-1:])
        if source in self.swapped and same_rows and same(old[-2:], new[-2:]):
            self.swapped[var] = self.swapped[source]
        if not total.place.image and same_rows:
            self.known[var] = total
            return True
        if total.code is None:
            return False
        expr = self._usual(total.terms[0][0], total, source)
        if name_of(call) == "relax.permute_dims" and swaps_last(axes_of(call)):
            self.swapped[var] = expr
        moved = self.floats.builder.emit(Call(call.op, [expr, *call.args[1:]], call.attrs, call.ty_args))
        shape = tuple(var.ty.shape)
        self.known[var] = coded(moved, total.code, Place(shape, channels_of(shape)))
        return True

    def _broadcast(self, var: Any, call: Any) -> bool:
        """Pass by what changes nothing; a matrix of weights that stands for many equal ones stays one."""
        source = call.args[0]
        if not is_var(source):
            return False
        if source in self.weights and self.weights[source][0].ndim == 2:
            self.weights[var] = self.weights[source]
        if source in self.known and same(source.ty.shape, var.ty.shape):
            self.known[var] = self.known[source]
            if source in self.swapped:
                self.swapped[var] = self.swapped[source]
            return True
        return False

    def _move_weight(self, var: Any, call: Any) -> None:
        integers, scales, axis = self.weights[call.args[0]]
        if name_of(call) == "relax.permute_dims" and integers.ndim == len(var.ty.shape):
            axes = axes_of(call)
            self.weights[var] = integers.transpose(axes), scales, None if axis is None else axes.index(axis)

    def _pool(self, var: Any, call: Any) -> bool:
        source, attrs = self._image(call.args[0]), call.attrs
        if source is None or attrs.layout != "NCHW":
            return False
        largest = name_of(call) == "relax.nn.max_pool2d"
        top, left, bottom, right = ints(attrs.padding)
        size, (_n, _, *out) = ints(attrs.pool_size), var.ty.shape
        assert source.code is not None
        if not largest and ((any((top, left, bottom, right)) and not attrs.count_include_pad) or attrs.ceil_mode):
            return False
        code = source.code
        border = int(np.iinfo(code.dtype).min) if largest else code.zero
        function = int8_pooling.window(
            "max" if largest else "sum",
            size,
            ints(attrs.strides),
            (top, left),
            ints(attrs.dilation),
            ints(out),
            border,
        )
        made = self._emit(function, source.terms[0][0], name="max_pool" if largest else "avg_pool", fuses=not largest)
        place = Place(tuple(made.ty.shape), source.place.channels, image=True)
        if largest:
            self.known[var] = coded(made, code, place)
        else:
            self.known[var] = self._mean_of(made, place, code, size[0] * size[1])
        return True

    def _mean(self, var: Any, call: Any) -> bool:
        source = self._image(call.args[0])
        if source is None or call.attrs.axis is None or sorted(a % 4 for a in ints(call.attrs.axis)) != [2, 3]:
            return False
        assert source.code is not None
        n, high, wide, held = source.place.shape
        made = self._emit(int8_pooling.total, source.terms[0][0], name="mean", fuses=True)
        place = Place(tuple(made.ty.shape), source.place.channels, image=True)
        total = self._mean_of(made, place, source.code, int(high) * int(wide))
        if bool(call.attrs.keepdims):
            self.known[var] = total
            return True
        if place.held != place.channels:
            return False
        flat = Place((n, held), place.channels)
        self.known[var] = Sum(flat, tuple((self._shaped(e, flat.shape), f) for e, f in total.terms), total.bias)
        return True

    @staticmethod
    def _mean_of(sums: Any, place: Place, code: Code, count: int) -> Sum:
        scale = np.float32(code.scale)
        return Sum(place, ((sums, scale / np.float32(count)),), np.float32(-code.zero) * scale)

    def _concat(self, var: Any, call: Any) -> bool:
        parts = [self._image(part) for part in self.floats.fields(call.args[0])]
        if not parts or any(part is None for part in parts) or int(call.attrs.axis) % 4 != 1:
            return False
        known = [part for part in parts if part is not None]
        counts = [part.place.channels for part in known]
        held = self.instruction.held(sum(counts))
        n, _, high, wide = var.ty.shape
        place = Place((n, high, wide, held), sum(counts), image=True)
        first = known[0].code
        alike = all(part.code == first for part in known)
        operands = [part.terms[0][0] if alike else self._real(part) for part in known]
        made = self._emit(int8_pooling.joined(counts, held), *operands, name="concat")
        if alike and first is not None:
            self.known[var] = coded(made, first, place)
        else:
            self.known[var] = Sum(place, ((made, np.float32(1.0)),))
        return True
