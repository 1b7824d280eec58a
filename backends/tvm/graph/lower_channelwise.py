"""Ops that keep channels apart, in NCHWc where an operand is: element-wise ops, pools, spatial means, concatenations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.graph.relax_utils import fields_of, ints, is_int, is_var
from fxopt.backends.tvm.graph.rules import rule
from fxopt.backends.tvm.graph.views import define_view
from fxopt.backends.tvm.ops.layout_transforms import mean_of_positions

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Array, Call, Expr, Var


@rule(
    "relax.nn.relu", "relax.nn.leakyrelu", "relax.nn.silu", "relax.nn.gelu", "relax.nn.gelu_tanh",
    "relax.sigmoid", "relax.tanh", "relax.erf", "relax.clip", "relax.negative", "relax.abs", "relax.square",
)  # fmt: skip
def unary(lowering: Lowering, var: Var, call: Call) -> bool:
    """In NCHWc; on a view of all of its source, before the move, where it fuses with the kernel of the source."""
    operand = call.args[0]
    if not is_var(operand):
        return False
    view = lowering.value(operand).view
    if lowering.is_blocked(operand):
        lowering.value(var).blocked = _unary_blocked(lowering, call, operand)
        return True
    if view is None or not (view.blocked and view.whole):
        return False
    made = _unary_blocked(lowering, call, view.source)
    lowering.value(made).blocked = made
    define_view(lowering, var, replace(view, source=made))
    return True


def _unary_blocked(lowering: Lowering, call: Call, source: Expr) -> Var:
    from tvm.ir import Call

    return lowering.emit(Call(call.op, [lowering.blocked(source), *call.args[1:]], call.attrs, call.ty_args))


@rule("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.maximum", "relax.minimum")
def binary(lowering: Lowering, var: Var, call: Call) -> bool:
    """In NCHWc where an operand is, and the other can be converted or broadcasts to it."""
    from tvm.ir import Call

    if len(var.ty.shape) != 4 or not any(is_var(arg) and lowering.is_blocked(arg) for arg in call.args):
        return False
    channels = int(var.ty.shape[1])
    divides = call.op.name == "relax.divide"
    if divides and lowering.constant(call.args[1]) is None:
        return False  # zero divided by zero in the padding of the channels
    sides = [_operand(lowering, arg, channels, fill=float(divides)) for arg in call.args]
    if any(side is None for side in sides):
        return False
    lowering.value(var).blocked = lowering.emit(Call(call.op, sides, call.attrs, call.ty_args))
    return True


def _operand(lowering: Lowering, expr: Expr, channels: int, fill: float) -> Expr | None:
    """An operand that broadcasts to [n, C / L, H, W, L]; None where there is no such layout."""
    from tvm import relax

    constant = lowering.constant(expr)
    if constant is not None:
        return relax.const(_constant_operand(constant, lowering.lanes, fill), str(constant.dtype))
    if not is_var(expr) or len(expr.ty.shape) != 4 or not is_int(expr.ty.shape[1]):
        return None
    return lowering.blocked(expr) if int(expr.ty.shape[1]) == channels else None


def _constant_operand(constant: Array, lanes: int, fill: float) -> Array:
    if constant.size == 1:
        return constant.reshape(())
    whole = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
    if whole.shape[1] == 1:
        return whole[..., None]
    padded = np.pad(whole, [(0, 0), (0, -whole.shape[1] % lanes), (0, 0), (0, 0)], constant_values=fill)
    n, _, high, wide = padded.shape
    return np.ascontiguousarray(padded.reshape(n, -1, lanes, high, wide).transpose(0, 1, 3, 4, 2))


@rule("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
def pool(lowering: Lowering, var: Var, call: Call) -> bool:
    """In NCHWc."""
    from tvm import relax

    data, attrs = call.args[0], call.attrs
    if not lowering.is_blocked(data) or attrs.layout != "NCHW":
        return False
    pool = relax.op.nn.max_pool2d if call.op.name == "relax.nn.max_pool2d" else relax.op.nn.avg_pool2d
    layout = f"NCHW{lowering.lanes}c"
    lowering.value(var).blocked = lowering.emit(
        pool(
            lowering.blocked(data), ints(attrs.pool_size), ints(attrs.strides), ints(attrs.padding),
            ints(attrs.dilation), bool(attrs.ceil_mode), bool(attrs.count_include_pad), layout=layout, out_layout=layout,
        )
    )  # fmt: skip
    return True


@rule("relax.mean")
def mean(lowering: Lowering, var: Var, call: Call) -> bool:
    """Over both spatial dims."""
    data = call.args[0]
    if not is_var(data) or not lowering.is_blocked(data) or call.attrs.axis is None:
        return False
    if sorted(axis % 4 for axis in ints(call.attrs.axis)) != [2, 3]:
        return False
    channels, keep = int(data.ty.shape[1]), bool(call.attrs.keepdims)
    made = lowering.emit_te(mean_of_positions(channels, keep), lowering.blocked(data), name="mean")
    if keep:
        lowering.value(var).blocked = made
    else:
        lowering.value(var).plain = made
    return True


@rule("relax.concat")
def concat(lowering: Lowering, var: Var, call: Call) -> bool:
    """Along channels, where those of each part fill their vectors."""
    from tvm import relax

    parts = fields_of(call.args[0])
    whole = all(is_var(p) and lowering.is_blocked(p) and int(p.ty.shape[1]) % lowering.lanes == 0 for p in parts)
    if not parts or not whole or int(call.attrs.axis) % 4 != 1:
        return False
    lowering.value(var).blocked = lowering.emit(relax.op.concat([lowering.blocked(p) for p in parts], axis=1))
    return True
