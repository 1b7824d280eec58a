"""Vectorization of tails: in a row that is no multiple of the vector, the last vector overlaps the one before.

before: for i in 0 … 197: y[i] = f(x[i])
after:  for v in 0 … 13: for lane in vector: with i = min(16 v, 181) + lane: y[i] = f(x[i])

A few elements are computed twice, and none in a scalar loop, in which each would take as long as a vector. So y must not reuse
the memory of x, as TVM allows where both are accessed at the same index: the index that y is written at is spelled
another way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.blocks import rebuilt

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Call, For, PrimFunc, Scalar, Stmt, TensorLoad

OVERLAPPING = "fxopt.overlapping"
"""Annotation of a loop: the lanes of its vectors."""


def overlap_tails(function: PrimFunc) -> PrimFunc:
    """The kernel with the marked loops vectorized, except where it may not be equivalent, or would be no faster."""
    from tvm.tirx import For
    from tvm_ffi import structural_map

    return function.with_body(structural_map(function.body, (For, _in_vectors)))


def _in_vectors(loop: For) -> For:
    from tvm import tirx
    from tvm.s_tir import SBlockRealize
    from tvm.tirx import Var
    from tvm_ffi import structural_map

    if OVERLAPPING not in loop.annotations:
        return loop
    lanes, kind = int(loop.annotations[OVERLAPPING]), tirx.ForKind
    notes = {key: value for key, value in loop.annotations.items() if key != OVERLAPPING}
    if not _suits(loop.body):
        return tirx.For(loop.loop_var, loop.min, loop.extent, kind.SERIAL, loop.body, None, notes)
    size, dtype = int(loop.extent), loop.loop_var.ty.dtype
    vector, lane = Var(f"{loop.loop_var.name}_vector", dtype), Var(f"{loop.loop_var.name}_lane", dtype)
    count, zero, last = -(-size // lanes), tirx.const(0, dtype), tirx.const(size - lanes, dtype)
    read = loop.min + tirx.min(vector * lanes, last) + lane
    written = loop.min + tirx.Select(vector < count - 1, vector * lanes, last) + lane

    def placed(expr: Scalar, place: Scalar) -> Scalar:
        return structural_map(expr, (Var, lambda var: place if var.same_as(loop.loop_var) else var))

    block = loop.body.block
    of = {var.var: placed(value, written) for var, value in zip(block.iter_vars, loop.body.iter_values, strict=True)}
    indices = [structural_map(index, (Var, lambda var: of.get(var, var))) for index in block.body.indices]
    store = tirx.BufferStore(block.body.buffer, block.body.value, indices)
    values = [placed(value, read) for value in loop.body.iter_values]
    body = SBlockRealize(values, loop.body.predicate, rebuilt(block, body=store))
    inner = tirx.For(lane, zero, tirx.const(lanes, dtype), kind.VECTORIZED, body)
    return tirx.For(vector, zero, tirx.const(count, dtype), kind.SERIAL, inner, None, notes)


def _suits(realized: Stmt) -> bool:
    """Whether a block only stores, has float results or operands, does not read its own buffer, and has no branch on data."""
    from tvm import ir
    from tvm.s_tir import SBlockRealize
    from tvm.tirx import BufferStore, IntImm
    from tvm_ffi import structural_map

    if not isinstance(realized, SBlockRealize) or not (
        isinstance(realized.predicate, IntImm) and int(realized.predicate)
        and isinstance(realized.block.body, BufferStore) and realized.block.init is None
    ):  # fmt: skip
        return False
    (written,), kinds, choices = realized.block.writes, set[str](), list[bool]()

    def load(found: TensorLoad) -> TensorLoad:
        kinds.add("own" if found.source.same_as(written.source) else str(found.source.dtype))
        return found

    def call(found: Call) -> Call:
        choices.append("if_then_else" in str(found.op))
        return found

    structural_map(realized.block.body, (ir.TensorLoad, load))
    structural_map(realized.block.body, (ir.Call, call))
    return "own" not in kinds and "float32" in kinds | {str(written.source.dtype)} and not any(choices)
