"""Convolutions and matrix products of quantized values, as int32 accumulators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.graph.int8.lower_batched_matmul import batched_matmul
from fxopt.backends.tvm.graph.int8.value_layouts import define_affine, in_plain_layout, quantized_nhwc, reshaped
from fxopt.backends.tvm.graph.relax_utils import ints, is_int, is_var, size_hint
from fxopt.backends.tvm.graph.rules import quantized_rule
from fxopt.backends.tvm.ops import int8_contraction
from fxopt.backends.tvm.ops.affine_value import AffineValue, BufferLayout, QuantParams
from fxopt.backends.tvm.ops.int8_kernel import tiling_of
from fxopt.backends.tvm.ops.int8_packing import merge_groups, pack
from fxopt.backends.tvm.tiling.amx import uses_im2col
from fxopt.backends.tvm.tiling.int8_geometry import Geometry, matmul_geometry

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Array, Call, Expr, Size, TensorExpr, Var


@quantized_rule("relax.nn.conv2d")
def lower_conv2d(lowering: Lowering, var: Var, call: Call) -> bool:
    """A convolution with an int8 weight, in NHWC; a 1x1 one over all positions as a single line."""
    from tvm import relax

    data, attrs = call.args[0], call.attrs
    source, weight = quantized_nhwc(lowering, data), _weight(lowering, call.args[1], 0)
    if source is None or weight is None or (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
        return False
    assert source.params is not None
    values, scales = weight
    merged, groups = merge_groups(values, source.layout.channels, int(attrs.groups), lowering.instruction.lanes)
    n, high, wide, padded_channels = source.layout.shape
    high, wide = int(high), int(wide)
    padding, stride = ints(attrs.padding), ints(attrs.strides)
    flat = merged.shape[2:] == (1, 1) and stride == (1, 1) and not any(padding) and groups == 1
    geometry = Geometry(
        padded_channels=int(padded_channels), outputs=len(merged), kernel=ints(merged.shape[2:]), stride=stride,
        padding=padding, dilation=ints(attrs.dilation), groups=groups, per_group=merged.shape[1],
        height=1 if flat else high, width=high * wide if flat else wide, size_hint=wide,
        instruction=lowering.instruction,
    ).for_weights(merged)  # fmt: skip
    if uses_im2col(geometry):
        geometry, flat = geometry.im2col(), True
    tiling, zero = tiling_of(geometry, lowering.choices), source.params.zero
    quantized = source.buffer
    if flat and geometry.windows_of is None:
        quantized = reshaped(lowering, quantized, (n, 1, high * wide, padded_channels))
    packed = relax.const(pack(merged, geometry, tiling), "int8")

    def conv2d(data: TensorExpr, weight: TensorExpr) -> TensorExpr:
        return int8_contraction.convolve(geometry, tiling, zero, data, weight)

    sums = lowering.emit_te(conv2d, quantized, packed, name="conv2d_int8", fuses=True)
    layout = BufferLayout(tuple(sums.ty.shape), len(merged), nhwc=True, flat=flat)
    weight_sums = values.reshape(len(values), -1).sum(1, dtype=np.int64)
    lowering.integer_contractions[geometry.kernel_kind] += 1
    return define_affine(lowering, var, _scaled(sums, layout, source.params, scales, weight_sums))


@quantized_rule("relax.matmul")
def lower_matmul(lowering: Lowering, var: Var, call: Call) -> bool:
    """A product with an int8 weight, with all leading dims merged into rows; or of two quantized values."""
    from tvm import relax

    left, right = call.args
    if lowering.value(right).affine is not None:
        return batched_matmul(lowering, var, left, right)
    source, weight = lowering.value(left).affine, _weight(lowering, right, 1)
    if source is None or source.params is None or weight is None or weight[0].ndim != 2:
        return False
    if not source.params.is_byte:
        return False
    values, scales = weight
    depth, columns = values.shape
    rows: Size = 1
    for size in list(left.ty.shape)[:-1]:
        rows = size * rows
    quantized = in_plain_layout(lowering, source.buffer, source.layout, left)
    quantized = reshaped(lowering, quantized, (rows, depth))
    static = int(rows) if is_int(rows) else None
    geometry = matmul_geometry(static, depth, columns, static or size_hint(rows), lowering.instruction)
    geometry = geometry.for_weights(values.T)
    tiling = tiling_of(geometry, lowering.choices)

    def matmul(data: TensorExpr, weight: TensorExpr) -> TensorExpr:
        return int8_contraction.multiply(geometry, tiling, data, weight)

    packed = relax.const(pack(values.T.reshape(columns, depth, 1, 1), geometry, tiling), "int8")
    sums = lowering.emit_te(matmul, quantized, packed, name="matmul_int8", fuses=True)
    layout = BufferLayout(tuple(sums.ty.shape), columns)
    lowering.integer_contractions[geometry.kernel_kind] += 1
    affine = _scaled(sums, layout, source.params, scales, values.sum(0, dtype=np.int64))
    return define_affine(lowering, var, affine)


def _scaled(sums: Expr, layout: BufferLayout, params: QuantParams, scales: Array, weight_sums: Array) -> AffineValue:
    """Accumulators times both scales, less the contribution of the input's zero point (Jacob et al. 2018, eq. 7)."""
    factor = np.broadcast_to(np.float32(params.scale) * scales.astype(np.float32), weight_sums.shape)
    bias = (-params.zero * weight_sums).astype(np.float32) * factor
    padding = (0, layout.padded_channels - len(factor))
    return AffineValue(layout, ((sums, np.pad(factor, padding)),), np.pad(bias, padding))


def _weight(lowering: Lowering, expr: Expr, axis: int) -> tuple[Array, Array] | None:
    """An int8 weight, and its scales, along ``axis`` or a single one."""
    weight = lowering.value(expr).weight if is_var(expr) else None
    if weight is None or weight.axis not in (None, axis):
        return None
    return weight.values, weight.scales
