"""A function of tensors, element by element, as one of scalars: for kernels that are written as loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Call, Scalar, TensorExpr


def scalar_function(function: Callable[[TensorExpr], TensorExpr], value: Scalar, dtype: str) -> Scalar:
    """What a function of one tensor, which topi offers, makes of a value: all of its intermediate tensors are inlined."""
    from tvm import ir, te
    from tvm_ffi import structural_map

    given = te.placeholder((1,), dtype)

    def inlined(tensor: TensorExpr) -> Scalar:
        if tensor.op.same_as(given.op):
            return value
        return structural_map(tensor.op.body[0], (ir.Call, read))

    def read(call: Call) -> Scalar:
        return inlined(call.args[0]) if call.op.name == "te.tensor_load" else call

    return inlined(function(given))
