"""What keeps channels apart, and so their vectors: element-wise ops, pools, means over an image, concatenations."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backends.tvm.graph.relax_utils import ints, is_int, is_var
from fxopt.backends.tvm.graph.value_layouts import Values
from fxopt.backends.tvm.ops.layout_transforms import mean_of_positions


class Channelwise(Values):
    """Handlers of ops whose result is in vectors where an operand is."""

    def _unary(self, var: Any, call: Any) -> bool:
        if not is_var(call.args[0]) or call.args[0] not in self._blocked:
            return False
        self._blocked[var] = self._on_vectors(call, call.args[0])
        return True

    def _on_vectors(self, call: Any, source: Any) -> Any:
        """What an op of one operand gives for the vectors of ``source``."""
        from tvm.ir import Call

        return self.builder.emit(Call(call.op, [self.blocked(source), *call.args[1:]], call.attrs, call.ty_args))

    def _binary(self, var: Any, call: Any) -> bool:
        from tvm.ir import Call

        if len(var.ty.shape) != 4 or not any(is_var(arg) and arg in self._blocked for arg in call.args):
            return False
        channels = int(var.ty.shape[1])
        if call.op.name == "relax.divide" and self.numbers(call.args[1]) is None:
            return False  # zero by zero in the channels beyond
        sides = [self._side(arg, channels, fill=float(call.op.name == "relax.divide")) for arg in call.args]
        if any(side is None for side in sides):
            return False
        self._blocked[var] = self.builder.emit(Call(call.op, sides, call.attrs, call.ty_args))
        return True

    def _side(self, expr: Any, channels: int, fill: float) -> Any:
        """An operand that broadcasts to [n, C / L, H, W, L]; None where there is no such form."""
        from tvm import relax

        numbers = self.numbers(expr)
        if numbers is not None:
            if numbers.size == 1:
                return relax.const(numbers.reshape(()), str(numbers.dtype))
            whole = numbers.reshape((1,) * (4 - numbers.ndim) + numbers.shape)
            if whole.shape[1] == 1:
                return relax.const(whole[..., None], str(numbers.dtype))
            padding = [(0, 0), (0, -channels % self.lanes), (0, 0), (0, 0)]
            padded = np.pad(whole, padding, constant_values=fill)
            n, _, high, wide = padded.shape
            parts = padded.reshape(n, -1, self.lanes, high, wide).transpose(0, 1, 3, 4, 2)
            return relax.const(np.ascontiguousarray(parts), str(numbers.dtype))
        if not is_var(expr) or len(expr.ty.shape) != 4 or not is_int(expr.ty.shape[1]):
            return None
        if int(expr.ty.shape[1]) == channels:
            return self.blocked(expr)
        return None

    def _pool(self, var: Any, call: Any) -> bool:
        from tvm import relax

        data, attrs = call.args[0], call.attrs
        if data not in self._blocked or attrs.layout != "NCHW":
            return False
        pool = relax.op.nn.max_pool2d if call.op.name == "relax.nn.max_pool2d" else relax.op.nn.avg_pool2d
        self._blocked[var] = self.builder.emit(
            pool(
                self.blocked(data), ints(attrs.pool_size), ints(attrs.strides), ints(attrs.padding),
                ints(attrs.dilation), bool(attrs.ceil_mode), bool(attrs.count_include_pad),
                layout=f"NCHW{self.lanes}c", out_layout=f"NCHW{self.lanes}c",
            )
        )  # fmt: skip
        return True

    def _mean(self, var: Any, call: Any) -> bool:
        data = call.args[0]
        if not is_var(data) or data not in self._blocked or call.attrs.axis is None:
            return False
        if sorted(axis % 4 for axis in ints(call.attrs.axis)) != [2, 3]:
            return False
        channels, keep = int(data.ty.shape[1]), bool(call.attrs.keepdims)
        made = self.emit(mean_of_positions(channels, keep), self.blocked(data), name="mean")
        (self._blocked if keep else self._plain)[var] = made
        return True

    def _concat(self, var: Any, call: Any) -> bool:
        from tvm import relax

        parts = self.fields(call.args[0])
        whole = all(is_var(p) and p in self._blocked and int(p.ty.shape[1]) % self.lanes == 0 for p in parts)
        if not parts or not whole or int(call.attrs.axis) % 4 != 1:
            return False
        self._blocked[var] = self.builder.emit(relax.op.concat([self.blocked(p) for p in parts], axis=1))
        return True

    def fields(self, expr: Any) -> list[Any]:
        """The members of a tuple; none where it is another op's."""
        from tvm import relax

        return list(expr.fields) if isinstance(expr, relax.Tuple) else []
