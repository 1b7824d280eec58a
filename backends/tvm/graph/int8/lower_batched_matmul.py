"""Products of two values in codes, as of queries and keys: the right operand is packed as it comes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backends.tvm.graph.int8.value_layouts import Forms
from fxopt.backends.tvm.graph.relax_utils import is_int, product_of, same, usual
from fxopt.backends.tvm.ops.affine_value import Place, Sum
from fxopt.backends.tvm.ops.int8_contraction import multiply
from fxopt.backends.tvm.ops.int8_kernel import tiling_of
from fxopt.backends.tvm.ops.int8_packing import pack_codes
from fxopt.backends.tvm.tiling.int8_geometry import product

_HALF = 128
"""What is taken from unsigned codes to make them signed, as the instructions want those of the right side."""


class Products(Forms):
    """The handler of products without a weight."""

    def _multiply_codes(self, var: Any, left: Any, right: Any) -> bool:
        """Integer sums Σ (a - a0) (b - b0) over the depth K, with a0 and b0 the zero points.

        They are Σ a b - b0 Σ a - a0 Σ b + K a0 b0 (Jacob et al. 2018, eq. 7), in which a sum whose factor is zero is left out.
        """
        codes = [self._bytes(left), self._bytes(right)]
        (*lead, rows, depth), (*other, _, columns) = left.ty.shape, right.ty.shape
        known = is_int(depth) and is_int(columns) and same(lead, other)
        if codes[0] is None or codes[1] is None or not known:
            return False
        one, two = codes[0][1], codes[1][1]
        turned = right in self.swapped
        pairs, depth, columns = product_of([1, *lead]), int(depth), int(columns)
        shift = _HALF if two.dtype == "uint8" else 0
        data = self._shaped(codes[0][0], (pairs, rows, depth))
        source = self.swapped[right] if turned else codes[1][0]
        source = self._shaped(source, (pairs, columns, depth) if turned else (pairs, depth, columns))
        exact = int(rows) if is_int(rows) else None
        geometry = product(exact, depth, columns, exact or usual(rows), self.instruction, usual(pairs))
        tiling, zeros = tiling_of(geometry, self.floats.choices), (one.zero, two.zero - shift)
        beside = []
        if zeros[1]:
            beside.append(self._emit(lambda data: _totals(data, 2, 0), data, name="sums_of_rows"))
        if zeros[0]:
            along = 2 if turned else 1
            beside.append(self._emit(lambda data: _totals(data, along, shift), source, name="sums_of_columns"))

        def matmul(data: Any, right: Any, *beside: Any) -> Any:
            packed = pack_codes(geometry, tiling, right, shift, swapped=turned)
            return _less_zeros(multiply(geometry, tiling, data, packed), zeros, depth, list(beside))

        sums = self._emit(matmul, data, source, *beside, name="matmul_int8", fuses=True)
        self.integer += 1
        factor = np.float32(one.scale) * np.float32(two.scale)
        self.known[var] = Sum(Place(tuple(sums.ty.shape), columns), ((sums, factor),))
        return True

    def _bytes(self, value: Any) -> Any:
        """Codes of one byte in the shape of the value, and what they stand for; None if there are none."""
        total = self.known.get(value)
        if total is None or total.code is None or total.code.dtype not in ("uint8", "int8"):
            return None
        return self._usual(total.terms[0][0], total, value), total.code


def _totals(codes: Any, axis: int, shift: int) -> Any:
    """int32 sums of codes [n, ., .], each less ``shift``, over one of the last two dims."""
    from tvm import te

    k = te.reduce_axis((0, codes.shape[axis]), "k")

    def element(n: Any, i: Any) -> Any:
        return te.sum(codes[(n, i, k) if axis == 2 else (n, k, i)].astype("int32"), axis=k)

    sums = te.compute((codes.shape[0], codes.shape[3 - axis]), element, name="summed")
    if not shift:
        return sums
    return te.compute(sums.shape, lambda *at: sums[at] - shift * int(codes.shape[axis]), name="shifted")


def _less_zeros(sums: Any, zeros: tuple[int, int], depth: int, beside: list[Any]) -> Any:
    """Sums [n, rows, columns], without what the zero points add to them; ``beside``: totals of rows, and of columns."""
    from tvm import te

    if not any(zeros):
        return sums
    rows, columns = beside.pop(0) if zeros[1] else None, beside.pop(0) if zeros[0] else None

    def element(n: Any, m: Any, c: Any) -> Any:
        number = sums[n, m, c] + depth * zeros[0] * zeros[1]
        if rows is not None:
            number = number - zeros[1] * rows[n, m]
        return number if columns is None else number - zeros[0] * columns[n, c]

    return te.compute(sums.shape, element, name="less_zeros")
