"""Reshapes, permutations and concatenations of quantized values, which move bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fxopt.backends.tvm.graph.int8.value_layouts import define_affine, dequantized, in_plain_layout, quantized_nhwc
from fxopt.backends.tvm.graph.relax_utils import (
    axes_of,
    channels_of,
    fields_of,
    is_var,
    op_name,
    same_shape,
    swaps_last,
)
from fxopt.backends.tvm.graph.rules import quantized_rule
from fxopt.backends.tvm.graph.value_layouts import QuantizedWeight
from fxopt.backends.tvm.ops import int8_pooling
from fxopt.backends.tvm.ops.affine_value import BufferLayout, of_quantized, of_real

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Call, Var


@quantized_rule("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims")
def move(lowering: Lowering, var: Var, call: Call) -> bool:
    """Moves the bytes of a quantized value; an affine one only by ops that keep its rows."""
    from tvm.ir import Call

    source = call.args[0]
    before, value = lowering.value(source), lowering.value(var)
    if is_var(source) and before.weight is not None:
        value.weight = _permuted_weight(before.weight, var, call)
        return False  # its dequantized constant is moved too
    affine = before.affine
    if affine is None:
        return False
    old, new = list(source.ty.shape), list(var.ty.shape)
    keeps_rows = op_name(call) == "relax.reshape" and same_shape(old[-1:], new[-1:])
    if keeps_rows and same_shape(old[-2:], new[-2:]):
        value.quantized_transpose_of = before.quantized_transpose_of
    if not affine.layout.nhwc and keeps_rows:
        return define_affine(lowering, var, affine)
    if affine.params is None:
        return False
    expr = in_plain_layout(lowering, affine.buffer, affine.layout, source)
    if op_name(call) == "relax.permute_dims" and swaps_last(axes_of(call)):
        value.quantized_transpose_of = expr
    moved = lowering.emit(Call(call.op, [expr, *call.args[1:]], call.attrs, call.ty_args))
    shape = tuple(var.ty.shape)
    return define_affine(lowering, var, of_quantized(moved, affine.params, BufferLayout(shape, channels_of(shape))))


def _permuted_weight(weight: QuantizedWeight, var: Var, call: Call) -> QuantizedWeight | None:
    if op_name(call) != "relax.permute_dims" or weight.values.ndim != len(var.ty.shape):
        return None
    axes = axes_of(call)
    axis = None if weight.axis is None else axes.index(weight.axis)
    return replace(weight, values=weight.values.transpose(axes), axis=axis)


@quantized_rule("relax.broadcast_to")
def broadcast(lowering: Lowering, var: Var, call: Call) -> bool:
    """Drop a broadcast to the same shape; a weight matrix that is repeated stays one."""
    source = call.args[0]
    if not is_var(source):
        return False
    before, value = lowering.value(source), lowering.value(var)
    if before.weight is not None and before.weight.values.ndim == 2:
        value.weight = before.weight
    if before.affine is None or not same_shape(source.ty.shape, var.ty.shape):
        return False
    value.quantized_transpose_of = before.quantized_transpose_of
    return define_affine(lowering, var, before.affine)


@quantized_rule("relax.concat")
def concat(lowering: Lowering, var: Var, call: Call) -> bool:
    """Along channels, in NHWC: of bytes where all parts have equal parameters, else dequantized."""
    parts = [quantized_nhwc(lowering, part) for part in fields_of(call.args[0])]
    if not parts or any(part is None for part in parts) or int(call.attrs.axis) % 4 != 1:
        return False
    known = [part for part in parts if part is not None]
    counts = [part.layout.channels for part in known]
    padded = lowering.instruction.padded_channels(sum(counts))
    n, _, high, wide = var.ty.shape
    layout = BufferLayout((n, high, wide, padded), sum(counts), nhwc=True)
    params = known[0].params
    alike = all(part.params == params for part in known)
    operands = [part.buffer if alike else dequantized(lowering, part) for part in known]
    made = lowering.emit_te(int8_pooling.concatenated(counts, padded), *operands, name="concat")
    return define_affine(
        lowering, var, of_quantized(made, params, layout) if alike and params is not None else of_real(made, layout)
    )
