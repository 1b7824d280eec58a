"""Convolutions and products of matrices as kernels that compute in tiles."""

from __future__ import annotations

from typing import Any

from fxopt.backends.tvm.graph.relax_utils import (
    axes_of,
    ints,
    is_float,
    is_int,
    is_var,
    product_of,
    swaps_last,
    usual,
)
from fxopt.backends.tvm.graph.value_layouts import Values
from fxopt.backends.tvm.ops import conv2d, matmul
from fxopt.backends.tvm.ops.conv2d import Convolution
from fxopt.backends.tvm.ops.matmul import Product
from fxopt.backends.tvm.tiling.task import Choices


class Kernels(Values):
    """Handlers of what multiplies, and of the moves that a product reads through."""

    def __init__(self, choices: Choices, places: dict[str, str]) -> None:
        super().__init__(choices, places)
        self._transposed: dict[Any, Any] = {}
        self._spread: dict[Any, Any] = {}

    def _convolve(self, var: Any, call: Any) -> bool:
        from tvm import relax

        data, attrs = call.args[0], call.attrs
        weight, sizes = self.numbers(call.args[1]), data.ty.shape
        known = weight is not None and all(is_int(size) for size in list(sizes)[1:])
        if not known or not is_float(data, var) or (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
            return False
        inputs = int(sizes[1])
        weight, groups = conv2d.joined_groups(weight, inputs, int(attrs.groups), self.lanes)
        conv = Convolution(
            inputs=inputs, outputs=len(weight), kernel=tuple(weight.shape[2:]), stride=ints(attrs.strides),
            padding=ints(attrs.padding), dilation=ints(attrs.dilation), groups=groups,
            size=(int(sizes[2]), int(sizes[3])), lanes=self.lanes,
            blocked_input=groups > 1 or inputs >= self.lanes or data in self._blocked,
        )  # fmt: skip
        tile = self.choices(conv.task())
        source = self.blocked(data) if conv.blocked_input else self.plain(data)

        def convolve(data: Any, weight: Any) -> Any:
            return conv2d.compute(conv, tile, data, weight)

        packed = relax.const(conv2d.pack_weight(weight, conv, tile), "float32")
        self._blocked[var] = self.emit(convolve, source, packed, name="conv2d", fuses=True)
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
            packed = matmul.pack(tile, lanes, right, transposed=transposed is not None)
            return matmul.compute(tile, lanes, int(columns), left, packed)

        source = self.plain(right if transposed is None else transposed)
        self._plain[var] = self.emit(batched, self.plain(left), source, name="matmul", fuses=True)
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

        def multiplied(left: Any, packed: Any) -> Any:
            return matmul.compute(tile, self.lanes, columns, left, packed)

        packed = relax.const(matmul.pack_columns(weight, self.lanes, tile), "float32")
        made = self.emit(multiplied, source, packed, name="matmul", fuses=True)
        return self.builder.emit(relax.op.reshape(made, [*lead, columns])) if len(lead) > 1 else made

    def _permute(self, var: Any, call: Any) -> None:
        """Note a swap of the last two dims, which a product reads through."""
        if swaps_last(axes_of(call)):
            self._transposed[var] = call.args[0]

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
