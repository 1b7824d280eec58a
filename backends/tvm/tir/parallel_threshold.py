"""Threads only where there is enough to do: a parallel loop of few operations runs serially, by a test at run time if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.amx_intrinsics import configured
from fxopt.backends.tvm.tir.blocks import map_kernels
from fxopt.backends.tvm.tir.work_stealing import share

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import For, IRModule, Scalar, Size, Stmt

_LITTLE = 150_000
"""Vector operations up to which one thread does all: several times the overhead of work stealing.

Fitted by hand on a two-core machine, with small models such as digits, and not on record in more detail. To fit it again, build
a small model with several values and ``threads=None``, and compare the artifacts with ``fxopt bench``.
"""
_TILE = 32
"""Vector operations that an instruction on tile registers, a statement by itself, counts as: 16 cycles, with two vector
operations each."""
_DYNAMIC_ROUNDS = 4
"""Iterations of a loop of dynamic size inside of a parallel one: a guess, as by :func:`graph.relax_utils.size_hint`."""
_OPERANDS = ("a", "b", "value", "condition", "true_value", "false_value")


def in_threads(module: IRModule, cores: int) -> IRModule:
    """The module, in which each parallel loop first checks whether it has enough iterations, unless that is static.

    If it has, up to ``cores`` threads share them.
    """
    from tvm import tirx

    def choose(loop: For) -> Stmt:
        if int(loop.kind) != tirx.ForKind.PARALLEL:
            return loop
        serial = configured(loop, tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body))
        if cores == 1:
            return serial
        few = -(-_LITTLE // max(1, _work(loop.body)))
        if isinstance(loop.extent, tirx.IntImm):
            return serial if int(loop.extent) < few else share(loop, cores)
        if few <= _least(loop.extent):
            return share(loop, cores)
        return tirx.IfThenElse(loop.extent < tirx.const(few, loop.extent.ty.dtype), serial, share(loop, cores))

    return tirx.transform.ConvertSSA()(map_kernels(module, tirx.For, choose))


def _least(extent: Size) -> int:
    """Iterations if every dynamic size is 1."""
    from tvm import ir, tirx
    from tvm.sym import Analyzer
    from tvm_ffi import structural_map

    ones = structural_map(extent, (ir.Var, lambda var: tirx.const(1, var.ty.dtype)))
    least = Analyzer().simplify(ones)
    return int(least) if isinstance(least, tirx.IntImm) else 1


def _work(statement: Stmt) -> int:
    """Estimated number of vector operations of a statement."""
    from tvm import ir, tirx

    if isinstance(statement, tirx.For):
        rounds = int(statement.extent) if isinstance(statement.extent, tirx.IntImm) else _DYNAMIC_ROUNDS
        return rounds * _work(statement.body)
    if isinstance(statement, tirx.SeqStmt):
        return sum(map(_work, statement.seq))
    if isinstance(statement, tirx.IfThenElse):
        cases = [statement.then_case, statement.else_case]
        return max(_work(case) for case in cases if case is not None)
    if isinstance(statement, tirx.BufferStore):
        return 1 + _operations(statement.value)
    if isinstance(statement, tirx.Evaluate):
        return _TILE if isinstance(statement.value, ir.Call) else 0
    if isinstance(statement, tirx.Bind):
        return _operations(statement.value)
    return _work(statement.body) if hasattr(statement, "body") else 0


def _operations(value: Scalar) -> int:
    """Operations and loads of an expression, without those of indices."""
    from tvm import ir

    if isinstance(value, ir.TensorLoad):
        return 1
    if isinstance(value, ir.Call):
        return 1 + sum(map(_operations, value.args))
    parts = [part for name in _OPERANDS if hasattr(part := getattr(value, name, None), "ty")]
    return 1 + sum(map(_operations, parts)) if parts else 0
