"""Parallel loops with work stealing: a thread that is done takes iterations of those that are not.

TVM gives each thread its part of the iterations and waits for the last one. Cores are seldom equally fast: a phone has big and
small ones, and on a rented machine somebody else may use the other hyperthread. Here each thread begins with its own part too,
so that the values it wrote in the layer before are in its cache, but then goes on with the parts of the others.

The idea is that of Blumofe and Leiserson, "Scheduling multithreaded computations by work stealing" (JACM 1999); in place of
a queue each part has a counter, from which its owner and thieves alike take the next iterations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.amx_intrinsics import configured
from fxopt.backends.tvm.tir.blocks import on_the_stack

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import For, Scalar, Stmt

_TIMES = 16
"""About how often a thread takes iterations of one part. At the end others wait for at most a sixteenth of a part. Smaller
takes would shorten the wait, and cost more atomic additions. Chosen, not fitted."""
_LINE = 8
"""Distance of counters in int64, so that each has a cache line of 64 bytes of its own."""
_TAKE = "fxopt_take"
_LLVM = f"""
define i64 @{_TAKE}(ptr %counter, i64 %count) {{
  %before = atomicrmw add ptr %counter, i64 %count monotonic
  ret i64 %before
}}
"""
"""TVM has no atomic operations for CPUs; LLVM IR has them for all of them."""


def share(loop: For, cores: int) -> Stmt:
    """A parallel loop as one over ``cores`` parts, whose iterations any thread may take; it works with any number of threads."""
    from tvm import tirx
    from tvm.ir import StringImm
    from tvm.tirx import BufferLoad, BufferStore, For, ForKind, SeqStmt

    def number(value: int) -> Scalar:
        return tirx.const(value, "int64")

    counters = tirx.decl_buffer((cores * _LINE,), "int64", name="counters", scope="local", data_alignment=64)
    first = tirx.decl_buffer((1,), "int64", name="first", scope="local")
    cleared, thread, later, beside = (tirx.Var(name, "int64") for name in ("cleared", "thread", "later", "beside"))

    extent = loop.extent.astype("int64")
    part = tirx.floormod(thread + later, number(cores))
    begin = tirx.floordiv(extent * part, number(cores))
    size = tirx.floordiv(extent * (part + number(1)), number(cores)) - begin
    at_once = tirx.max(number(1), tirx.floordiv(extent, number(cores * _TIMES)))
    taken = BufferLoad(first, [number(0)])

    counter = tirx.address_of(BufferLoad(counters, [part * number(_LINE)]))
    take = BufferStore(first, tirx.call_extern("int64", _TAKE, counter, at_once), [number(0)])
    value = (begin + taken + beside).astype(str(loop.loop_var.ty.dtype)) + loop.min
    rounds = For(
        beside, number(0), tirx.min(at_once, size - taken), ForKind.SERIAL,
        SeqStmt([tirx.Bind(loop.loop_var, value), loop.body]),
    )  # fmt: skip
    of_part = SeqStmt([take, tirx.While(taken < size, SeqStmt([rounds, take]))])
    parts = For(later, number(0), number(cores), ForKind.SERIAL, of_part)
    clear = BufferStore(counters, number(0), [cleared * number(_LINE)])
    whole = [
        on_the_stack(counters),
        For(cleared, number(0), number(cores), ForKind.SERIAL, clear),
        For(
            thread, number(0), number(cores), ForKind.PARALLEL, SeqStmt([on_the_stack(first), configured(loop, parts)])
        ),
    ]
    return tirx.AttrStmt(number(0), "pragma_import_llvm", StringImm(_LLVM), SeqStmt(whole))
