"""Matrix products of two quantized values, as of queries and keys: the right operand is packed at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.graph.int8.value_layouts import define_affine, in_plain_layout, reshaped
from fxopt.backends.tvm.graph.relax_utils import is_int, product, same_shape, size_hint
from fxopt.backends.tvm.ops.affine_value import AffineValue, BufferLayout, QuantParams
from fxopt.backends.tvm.ops.int8_contraction import multiply
from fxopt.backends.tvm.ops.int8_kernel import tiling_of
from fxopt.backends.tvm.ops.int8_packing import pack_quantized
from fxopt.backends.tvm.tiling.int8_geometry import matmul_geometry

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Expr, Scalar, TensorExpr, Var

_UINT8_TO_INT8 = 128
"""Subtracted from unsigned values to make them signed, as the instructions need their right operand."""


def batched_matmul(lowering: Lowering, var: Var, left: Expr, right: Expr) -> bool:
    """Accumulators Σ (a - a0) (b - b0) over the depth K, with a0 and b0 the zero points.

    They are Σ a b - b0 Σ a - a0 Σ b + K a0 b0 (Jacob et al. 2018, eq. 7), without sums whose factor is zero.
    """
    operands = [_quantized_bytes(lowering, left), _quantized_bytes(lowering, right)]
    (*lead, rows, depth), (*other, _, columns) = left.ty.shape, right.ty.shape
    static = is_int(depth) and is_int(columns) and same_shape(lead, other)
    if operands[0] is None or operands[1] is None or not static:
        return False
    (data, one), (source, two) = operands[0], operands[1]
    before_swap = lowering.value(right).quantized_transpose_of
    swapped = before_swap is not None
    batch, depth, columns = product([1, *lead]), int(depth), int(columns)
    shift = _UINT8_TO_INT8 if two.dtype == "uint8" else 0
    data = reshaped(lowering, data, (batch, rows, depth))
    source = before_swap if swapped else source
    source = reshaped(lowering, source, (batch, columns, depth) if swapped else (batch, depth, columns))
    exact = int(rows) if is_int(rows) else None
    geometry = matmul_geometry(exact, depth, columns, exact or size_hint(rows), lowering.instruction, size_hint(batch))
    tiling, zeros = tiling_of(geometry, lowering.choices), (one.zero, two.zero - shift)
    sums_beside: list[Expr] = []
    if zeros[1]:
        sums_beside.append(lowering.emit_te(lambda data: _sums_along(data, 2, 0), data, name="sums_of_rows"))
    if zeros[0]:
        along = 2 if swapped else 1
        sums = lowering.emit_te(lambda data: _sums_along(data, along, shift), source, name="sums_of_columns")
        sums_beside.append(sums)

    def matmul(data: TensorExpr, right: TensorExpr, *beside: TensorExpr) -> TensorExpr:
        packed = pack_quantized(geometry, tiling, right, shift, swapped=swapped)
        return _without_zero_points(multiply(geometry, tiling, data, packed), zeros, depth, list(beside))

    sums = lowering.emit_te(matmul, data, source, *sums_beside, name="matmul_int8", fuses=True)
    lowering.integer_contractions[geometry.kernel_kind] += 1
    factor = np.float32(one.scale) * np.float32(two.scale)
    affine = AffineValue(BufferLayout(tuple(sums.ty.shape), columns), ((sums, factor),))
    return define_affine(lowering, var, affine)


def _quantized_bytes(lowering: Lowering, expr: Expr) -> tuple[Expr, QuantParams] | None:
    """A value as quantized bytes in its own shape, and their parameters; None if it is not quantized."""
    affine = lowering.value(expr).affine
    if affine is None or affine.params is None or not affine.params.is_byte:
        return None
    return in_plain_layout(lowering, affine.buffer, affine.layout, expr), affine.params


def _sums_along(quantized: TensorExpr, axis: int, shift: int) -> TensorExpr:
    """int32 sums of bytes [n, ., .], each less ``shift``, over one of the last two dims."""
    from tvm import te

    k = te.reduce_axis((0, quantized.shape[axis]), "k")

    def element(n: Scalar, i: Scalar) -> Scalar:
        return te.sum(quantized[(n, i, k) if axis == 2 else (n, k, i)].astype("int32"), axis=k)

    sums = te.compute((quantized.shape[0], quantized.shape[3 - axis]), element, name="summed")
    if not shift:
        return sums
    return te.compute(sums.shape, lambda *at: sums[at] - shift * int(quantized.shape[axis]), name="shifted")


def _without_zero_points(sums: TensorExpr, zeros: tuple[int, int], depth: int, beside: list[TensorExpr]) -> TensorExpr:
    """Sums [n, rows, columns], less the contributions of zero points; ``beside``: sums of rows, and of columns."""
    from tvm import te

    if not any(zeros):
        return sums
    rows, columns = beside.pop(0) if zeros[1] else None, beside.pop(0) if zeros[0] else None

    def element(n: Scalar, m: Scalar, c: Scalar) -> Scalar:
        total = sums[n, m, c] + depth * zeros[0] * zeros[1]
        if rows is not None:
            total = total - zeros[1] * rows[n, m]
        return total if columns is None else total - zeros[0] * columns[n, c]

    return te.compute(sums.shape, element, name="less_zeros")
