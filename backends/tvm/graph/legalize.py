"""Legalization of ops whose lowering in TVM would call the C library for every element, or lose precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from fxopt.backends.tvm.ops.row_reductions import known_size, reduce_rows

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import BlockBuilder, Call, Expr, Scalar, TensorExpr

Legalizer: TypeAlias = "Callable[[BlockBuilder, Call], Expr]"


def legalizers() -> dict[str, Legalizer]:
    """By the op's name, as TVM's pass takes them. Other dtypes than float32 keep TVM's."""
    from tvm import topi

    return {
        "relax.exp": _in_float(topi.fast_exp),
        "relax.erf": _in_float(topi.fast_erf),
        "relax.tanh": _in_float(topi.fast_tanh),
        "relax.sigmoid": _in_float(_sigmoid),
        "relax.nn.silu": _in_float(lambda x: topi.multiply(x, _sigmoid(x))),
        "relax.nn.gelu": _in_float(_gelu),
        "relax.nn.gelu_tanh": _in_float(_gelu_tanh),
        "relax.nn.softmax": _softmax,
        "relax.nn.layer_norm": _layer_norm,
    }


def _default(name: str) -> Legalizer:
    from tvm.ir import Op

    return Op.get(name).get_attr("FLegalize")


def _in_float(function: Callable[[TensorExpr], TensorExpr]) -> Legalizer:
    def legalize(builder: BlockBuilder, call: Call) -> Expr:
        if not _is_float(call.args[0]):
            return _default(call.op.name)(builder, call)
        return builder.call_te(function, call.args[0], primfunc_name_hint=call.op.name.split(".")[-1])

    return legalize


def _is_float(expr: Expr) -> bool:
    return str(expr.ty.dtype.dtype) == "float32"


def _constant(value: float) -> Scalar:
    from tvm import tirx

    return tirx.const(value, "float32")


def _sigmoid(x: TensorExpr) -> TensorExpr:
    from tvm import topi

    return topi.divide(_constant(1.0), topi.add(_constant(1.0), topi.fast_exp(topi.negative(x))))


def _gelu(x: TensorExpr) -> TensorExpr:
    from tvm import topi

    scaled = topi.multiply(x, _constant(math.sqrt(0.5)))
    return topi.multiply(topi.multiply(x, _constant(0.5)), topi.add(_constant(1.0), topi.fast_erf(scaled)))


def _gelu_tanh(x: TensorExpr) -> TensorExpr:
    from tvm import topi

    cube = topi.multiply(topi.multiply(x, x), topi.multiply(x, _constant(0.044715)))
    inner = topi.multiply(topi.add(x, cube), _constant(math.sqrt(2 / math.pi)))
    return topi.multiply(topi.multiply(x, _constant(0.5)), topi.add(_constant(1.0), topi.fast_tanh(inner)))


def _softmax(builder: BlockBuilder, call: Call) -> Expr:
    from tvm import topi

    x, axis = call.args[0], int(call.attrs.axis)
    if not _is_float(x):
        return _default(call.op.name)(builder, call)
    rank = len(x.ty.shape)
    last = axis % rank == rank - 1 and known_size(x.ty.shape[-1]) is not None
    function = _softmax_of_rows if last and rank > 1 else lambda data: topi.nn.fast_softmax(data, axis)
    return builder.call_te(function, x, primfunc_name_hint="softmax")


def _softmax_of_rows(x: TensorExpr) -> TensorExpr:
    from tvm import te, topi

    outer = list(x.shape)[:-1]
    largest = reduce_rows(x, "max")
    shifted = te.compute(x.shape, lambda *at: x[at] - largest[at[:-1]], name="shifted")
    powers = topi.fast_exp(shifted)
    total = reduce_rows(powers, "sum")
    share = te.compute(outer, lambda *at: _constant(1.0) / total[at], name="share")
    return te.compute(x.shape, lambda *at: powers[at] * share[at[:-1]], name="softmax")


def _layer_norm(builder: BlockBuilder, call: Call) -> Expr:
    """Mean first, then the mean of squared distances: squares of the values themselves would cancel for a small variance."""
    x, epsilon = call.args[0], float(call.attrs.epsilon)
    axes, rank = [int(axis) for axis in call.attrs.axes], len(x.ty.shape)
    if (
        not _is_float(x)
        or [axis % rank for axis in axes] != [rank - 1]
        or rank < 2
        or known_size(x.ty.shape[-1]) is None
    ):
        return _default(call.op.name)(builder, call)

    def layer_norm(x: TensorExpr, weight: TensorExpr, bias: TensorExpr) -> TensorExpr:
        from tvm import te, tirx

        *outer, size = x.shape
        share = _constant(1.0 / int(size))
        total = reduce_rows(x, "sum")
        mean = te.compute(outer, lambda *at: total[at] * share, name="mean")
        distance = te.compute(x.shape, lambda *at: x[at] - mean[at[:-1]], name="distance")
        squares = reduce_rows(distance, "sum of squares")
        scale = te.compute(outer, lambda *at: tirx.rsqrt(squares[at] * share + _constant(epsilon)), name="scale")

        def normal(*at: Scalar) -> Scalar:
            return distance[at] * scale[at[:-1]] * weight[at[-1]] + bias[at[-1]]

        return te.compute(x.shape, normal, name="normal")

    return builder.call_te(layer_norm, *call.args, primfunc_name_hint="layer_norm")
