"""Pools and spatial means of quantized values: maxima as bytes, sums of windows as int32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.graph.int8.value_layouts import define_affine, quantized_nhwc, reshaped
from fxopt.backends.tvm.graph.relax_utils import ints, op_name
from fxopt.backends.tvm.graph.rules import quantized_rule
from fxopt.backends.tvm.ops import int8_pooling
from fxopt.backends.tvm.ops.affine_value import AffineValue, BufferLayout, QuantParams, of_quantized

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Call, Expr, Var


@quantized_rule("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
def pool(lowering: Lowering, var: Var, call: Call) -> bool:
    """In NHWC; averages of windows of different sizes are declined."""
    source, attrs = quantized_nhwc(lowering, call.args[0]), call.attrs
    if source is None or attrs.layout != "NCHW":
        return False
    params, takes_max = source.params, op_name(call) == "relax.nn.max_pool2d"
    assert params is not None
    top, left, bottom, right = ints(attrs.padding)
    size, (_n, _, *out) = ints(attrs.pool_size), var.ty.shape
    if not takes_max and ((any((top, left, bottom, right)) and not attrs.count_include_pad) or attrs.ceil_mode):
        return False
    border = int(np.iinfo(params.dtype).min) if takes_max else params.zero
    function = int8_pooling.pool(
        "max" if takes_max else "sum", size, ints(attrs.strides), (top, left), ints(attrs.dilation), ints(out), border
    )
    name = "max_pool" if takes_max else "avg_pool"
    made = lowering.emit_te(function, source.buffer, name=name, fuses=not takes_max)
    layout = BufferLayout(tuple(made.ty.shape), source.layout.channels, nhwc=True)
    if takes_max:
        return define_affine(lowering, var, of_quantized(made, params, layout))
    return define_affine(lowering, var, _average(made, layout, params, size[0] * size[1]))


@quantized_rule("relax.mean")
def mean(lowering: Lowering, var: Var, call: Call) -> bool:
    """Over both spatial dims."""
    source = quantized_nhwc(lowering, call.args[0])
    if source is None or call.attrs.axis is None or sorted(a % 4 for a in ints(call.attrs.axis)) != [2, 3]:
        return False
    assert source.params is not None
    n, high, wide, padded = source.layout.shape
    made = lowering.emit_te(int8_pooling.spatial_sum, source.buffer, name="mean", fuses=True)
    layout = BufferLayout(tuple(made.ty.shape), source.layout.channels, nhwc=True)
    average = _average(made, layout, source.params, int(high) * int(wide))
    if bool(call.attrs.keepdims):
        return define_affine(lowering, var, average)
    if layout.padded_channels != layout.channels:
        return False
    rows = BufferLayout((n, padded), layout.channels)
    terms = tuple((reshaped(lowering, expr, rows.shape), factor) for expr, factor in average.terms)
    return define_affine(lowering, var, AffineValue(rows, terms, average.bias))


def _average(sums: Expr, layout: BufferLayout, params: QuantParams, count: int) -> AffineValue:
    scale = np.float32(params.scale)
    return AffineValue(layout, ((sums, scale / np.float32(count)),), np.float32(-params.zero) * scale)
