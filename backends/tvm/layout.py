"""Channels in vectors: convolutions and what stands between them are given values of [n, C / L, H, W, L].

Any number of channels is held so, filled up to whole vectors. What the channels beyond C hold is finite and nothing reads
it: weights have zeros there, and reductions over channels take values in the usual form. A value has both forms only if
it is read in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fxopt.backends.tvm import convolution, product
from fxopt.backends.tvm.convolution import Convolution
from fxopt.backends.tvm.folding import fold
from fxopt.backends.tvm.forms import mean_of_positions, to_blocked, to_plain
from fxopt.backends.tvm.integers.rewrite import Integers
from fxopt.backends.tvm.product import Product
from fxopt.backends.tvm.sizes import ints, is_float, is_int, is_var, product_of, usual
from fxopt.backends.tvm.tasks import Choices

_UNARY = (
    "relax.nn.relu", "relax.nn.relu6", "relax.nn.leakyrelu", "relax.nn.silu", "relax.nn.gelu", "relax.nn.gelu_tanh",
    "relax.sigmoid", "relax.tanh", "relax.erf", "relax.clip", "relax.negative", "relax.abs", "relax.square",
)  # fmt: skip
_BINARY = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.maximum", "relax.minimum")
_FUSES = {"op_pattern": 4}
"""A kernel that takes the element-wise ops behind it into itself."""


def use_blocked_layout(module: Any, choices: Choices) -> Any:
    """The module with convolutions, and products of matrices, as kernels that compute in tiles of ``choices``.

    Returns the module as it is where ``main`` has control flow.
    """
    from tvm import relax

    main = module["main"]
    if not all(isinstance(block, relax.DataflowBlock) for block in main.body.blocks):
        return module
    rewriter = _Rewriter(choices)
    builder = rewriter.builder
    attributes = {key: value for key, value in main.attrs.items() if key != "global_symbol"} if main.attrs else None
    with builder.function("main", list(main.params), attrs=attributes):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    rewriter.bind(binding)
            result = builder.emit_output(rewriter.plain(main.body.body))
        builder.emit_func_output(result)
    choices.facts.update(rewriter.integers.facts())
    return builder.get()


class _Rewriter:
    """Goes through the bindings in order; knows each value in the usual form, in vectors, as numbers, or in several."""

    def __init__(self, choices: Choices) -> None:
        from tvm import relax

        self.choices, self.lanes = choices, choices.processor.lanes
        self.builder = relax.BlockBuilder()
        self._plain: dict[Any, Any] = {}
        self._blocked: dict[Any, Any] = {}
        self._numbers: dict[Any, Any] = {}
        self._transposed: dict[Any, Any] = {}
        self._spread: dict[Any, Any] = {}
        self.integers = Integers(self)
        self._handlers: dict[str, Callable[[Any, Any], bool]] = {
            "relax.nn.conv2d": self._convolve, "relax.matmul": self._multiply, "relax.permute_dims": self._permute,
            "relax.nn.max_pool2d": self._pool, "relax.nn.avg_pool2d": self._pool, "relax.mean": self._mean,
            "relax.concat": self._concat, "relax.broadcast_to": self._broadcast,
            **dict.fromkeys(_UNARY, self._unary), **dict.fromkeys(_BINARY, self._binary),
        }  # fmt: skip

    def bind(self, binding: Any) -> None:
        """Rewrite one binding."""
        from tvm import relax
        from tvm.ir import Call, Op

        var, value = binding.var, binding.value
        if isinstance(binding, relax.MatchCast):
            self._plain[var] = self.builder.match_cast(self.plain(value), binding.ty)
            return
        if isinstance(value, Call) and isinstance(value.op, Op):
            if self.integers.bind(var, value):
                return
            numbers = [self.numbers(arg) for arg in value.args]
            folded = fold(value, numbers)
            if folded is not None:
                self._numbers[var] = folded
                return
            handler = self._handlers.get(value.op.name)
            if handler is not None and handler(var, value):
                return
        self._plain[var] = self.builder.emit(self.plain(value))

    # ---- the forms of a value ----------------------------------------------------------------------------------------

    def numbers(self, expr: Any) -> Any:
        """The array of a constant; None for what is computed when the model runs."""
        from tvm.ir import GenericConst

        if isinstance(expr, GenericConst) and hasattr(expr.value, "numpy"):
            return expr.value.numpy()
        return self._numbers.get(expr) if is_var(expr) else None

    def set_numbers(self, var: Any, numbers: Any) -> None:
        """Note that a variable is constant."""
        self._numbers[var] = numbers

    def plain(self, expr: Any) -> Any:
        """An expression over the new module's values in the usual form."""
        from tvm import relax
        from tvm.ir import Call, Op

        if is_var(expr):
            if expr not in self._plain and (known := self.integers.plain(expr)) is not None:
                self._plain[expr] = known
            if expr in self._numbers and expr not in self._plain:
                self._plain[expr] = relax.const(self._numbers[expr], str(self._numbers[expr].dtype))
            if expr not in self._plain and expr in self._blocked:
                channels = expr.ty.shape[1]
                self._plain[expr] = self._emit(to_plain(channels, self.lanes), self._blocked[expr], name="to_plain")
            return self._plain.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.plain(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.plain(expr.tuple_value), expr.index)
        if isinstance(expr, Call) and isinstance(expr.op, Op):
            return Call(expr.op, [self.plain(arg) for arg in expr.args], expr.attrs, expr.ty_args)
        return expr

    def blocked(self, expr: Any) -> Any:
        """A value of rank 4 in vectors of channels."""
        if expr not in self._blocked:
            channels = int(expr.ty.shape[1])
            self._blocked[expr] = self._emit(to_blocked(channels, self.lanes), self.plain(expr), name="to_blocked")
        return self._blocked[expr]

    def _emit(self, function: Callable[..., Any], *args: Any, name: str, fuses: bool = False) -> Any:
        attributes = {"primfunc_attrs": _FUSES} if fuses else {}
        return self.builder.emit(self.builder.call_te(function, *args, primfunc_name_hint=name, **attributes))

    # ---- kernels -----------------------------------------------------------------------------------------------------

    def _convolve(self, var: Any, call: Any) -> bool:
        from tvm import relax

        data, attrs = call.args[0], call.attrs
        weight, sizes = self.numbers(call.args[1]), data.ty.shape
        known = weight is not None and all(is_int(size) for size in list(sizes)[1:])
        if not known or not is_float(data, var) or (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
            return False
        inputs = int(sizes[1])
        weight, groups = convolution.joined_groups(weight, inputs, int(attrs.groups), self.lanes)
        conv = Convolution(
            inputs=inputs, outputs=len(weight), kernel=tuple(weight.shape[2:]), stride=ints(attrs.strides),
            padding=ints(attrs.padding), dilation=ints(attrs.dilation), groups=groups,
            size=(int(sizes[2]), int(sizes[3])), lanes=self.lanes,
            blocked_input=groups > 1 or inputs >= self.lanes or data in self._blocked,
        )  # fmt: skip
        tile = self.choices(conv.task())
        source = self.blocked(data) if conv.blocked_input else self.plain(data)

        def conv2d(data: Any, weight: Any) -> Any:
            return convolution.compute(conv, tile, data, weight)

        packed = relax.const(convolution.pack_weight(weight, conv, tile), "float32")
        self._blocked[var] = self._emit(conv2d, source, packed, name="conv2d", fuses=True)
        return True

    def _multiply(self, var: Any, call: Any) -> bool:
        from tvm_ffi import structural_equal

        left, right = call.args
        if not is_float(left, right, var) or len(left.ty.shape) < 2 or not is_int(left.ty.shape[-1]):
            return False
        weight, lanes = self.numbers(right), self.lanes
        if weight is None and is_var(right):
            weight = self._spread.get(right)
        if weight is not None and weight.ndim == 2:
            self._plain[var] = self._multiply_weight(left, weight)
            return True
        depth, rows = int(left.ty.shape[-1]), usual(left.ty.shape[-2])
        leads = [list(side.ty.shape)[:-2] for side in (left, right)]
        if len(leads[0]) != len(leads[1]) or not leads[0] or not all(map(structural_equal, *leads)):
            return False
        columns = right.ty.shape[-1]
        if not is_int(columns):
            return False
        transposed = self._transposed.get(right) if is_var(right) else None
        tile = self.choices(Product(rows, depth, int(columns), lanes, usual(product_of(leads[0]))).task())

        def batched(left: Any, right: Any) -> Any:
            packed = product.pack(tile, lanes, right, transposed=transposed is not None)
            return product.compute(tile, lanes, int(columns), left, packed)

        source = self.plain(right if transposed is None else transposed)
        self._plain[var] = self._emit(batched, self.plain(left), source, name="matmul", fuses=True)
        return True

    def _multiply_weight(self, left: Any, weight: Any) -> Any:
        """A product with a packed weight, of all rows at once whatever dims they are in."""
        from tvm import relax

        depth, columns = weight.shape
        lead, source = list(left.ty.shape)[:-1], self.plain(left)
        rows = product_of(lead)
        if len(lead) > 1:
            source = self.builder.emit(relax.op.reshape(source, [rows, depth]))
        tile = self.choices(Product(usual(rows), depth, columns, self.lanes).task())

        def matmul(left: Any, packed: Any) -> Any:
            return product.compute(tile, self.lanes, columns, left, packed)

        packed = relax.const(product.pack_columns(weight, self.lanes, tile), "float32")
        made = self._emit(matmul, source, packed, name="matmul", fuses=True)
        return self.builder.emit(relax.op.reshape(made, [*lead, columns])) if len(lead) > 1 else made

    # ---- what keeps the form -----------------------------------------------------------------------------------------

    def _permute(self, var: Any, call: Any) -> bool:
        """Note a swap of the last two dims, which a product reads through."""
        rank = len(call.args[0].ty.shape)
        axes = list(ints(call.attrs.axes)) if call.attrs.axes is not None else list(range(rank))[::-1]
        if axes == [*range(rank - 2), rank - 1, rank - 2]:
            self._transposed[var] = call.args[0]
        return False

    def _broadcast(self, var: Any, call: Any) -> bool:
        """Note a matrix that stands for many equal ones, and pass by what changes nothing."""
        from tvm_ffi import structural_equal

        source, numbers = call.args[0], self.numbers(call.args[0])
        if numbers is not None and numbers.ndim == 2 and len(var.ty.shape) > 2:
            self._spread[var] = numbers
        shapes = source.ty.shape, var.ty.shape
        if numbers is None and len(shapes[0]) == len(shapes[1]) and all(map(structural_equal, *shapes)):
            self._plain[var] = self.plain(source)
            return True
        return False

    def _unary(self, var: Any, call: Any) -> bool:
        from tvm.ir import Call

        if not is_var(call.args[0]) or call.args[0] not in self._blocked:
            return False
        made = Call(call.op, [self.blocked(call.args[0]), *call.args[1:]], call.attrs, call.ty_args)
        self._blocked[var] = self.builder.emit(made)
        return True

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
        made = self._emit(mean_of_positions(channels, keep), self.blocked(data), name="mean")
        (self._blocked if keep else self._plain)[var] = made
        return True

    def _concat(self, var: Any, call: Any) -> bool:
        from tvm import relax

        parts = self._fields(call.args[0])
        whole = all(is_var(p) and p in self._blocked and int(p.ty.shape[1]) % self.lanes == 0 for p in parts)
        if not parts or not whole or int(call.attrs.axis) % 4 != 1:
            return False
        self._blocked[var] = self.builder.emit(relax.op.concat([self.blocked(p) for p in parts], axis=1))
        return True

    def _fields(self, expr: Any) -> list[Any]:
        from tvm import relax

        return list(expr.fields) if isinstance(expr, relax.Tuple) else []
