"""Ops on constants, computed when the program is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Call

_BINARY = {
    "relax.add": np.add, "relax.subtract": np.subtract, "relax.multiply": np.multiply, "relax.divide": np.divide,
}  # fmt: skip


def fold(call: Call, operands: list[Array | None]) -> Array | None:
    """The result of a call whose operands are constants; None where one is not, or the op is not folded."""
    name, shape = call.op.name, _shape(call)
    if not operands or operands[0] is None or shape is None:
        return None
    if name in ("relax.reshape", "relax.expand_dims", "relax.squeeze"):
        return operands[0].reshape(shape)
    if name == "relax.broadcast_to" and operands[0].size == np.prod(shape):  # a larger one would be stored many times
        return operands[0].reshape(shape)
    if name == "relax.permute_dims":
        axes = None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
        return np.ascontiguousarray(operands[0].transpose(axes))
    if name == "relax.astype":
        dtype = str(call.attrs.dtype)
        return operands[0].astype(dtype) if dtype in _DTYPES else None
    if name in _BINARY and operands[1] is not None and operands[0].dtype == operands[1].dtype == np.float32:
        return _BINARY[name](operands[0], operands[1])
    return None


_DTYPES = ("float32", "float64", "int64", "int32", "int8", "uint8", "bool")


def _shape(call: Call) -> list[int] | None:
    from tvm import tirx

    try:
        sizes = list(call.ty.shape)
    except (AttributeError, TypeError):
        return None
    return [int(size) for size in sizes] if all(isinstance(size, tirx.IntImm) for size in sizes) else None
