"""Rounds of a loop in threads, shared by work stealing: a thread that is done takes rounds of those that are not.

TVM gives each thread its part of the rounds and waits for the last one. Cores are seldom equally fast: a phone has big and
small ones, and on a rented machine somebody else may use the other half of a core. Here each thread has its part too, so
that it finds in its cache what it wrote in the layer before, but then goes on with the parts of the others.

The idea is that of Blumofe and Leiserson, "Scheduling multithreaded computations by work stealing" (JACM 1999); in place of
a queue each part has a counter, from which its owner and thieves alike take the next rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.amx_intrinsics import configured
from fxopt.backends.tvm.tir.blocks import on_the_stack

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import For, Scalar, Stmt

_TIMES = 16
"""About how often a thread goes to a counter for the rounds of one part. Others wait at the end for at
most one in 16 of a part. More takes would leave less to wait for, and cost more atomic additions. Chosen, not fitted."""
_LINE = 8
"""Counters are so many int64 apart that each has a cache line of 64 bytes of its own."""
_TAKE = "fxopt_take"
_LLVM = f"""
define i64 @{_TAKE}(ptr %counter, i64 %count) {{
  %before = atomicrmw add ptr %counter, i64 %count monotonic
  ret i64 %before
}}
"""
"""TVM has no atomic operations for processors; LLVM's language has, for all of them."""


def share(loop: For, cores: int) -> Stmt:
    """A loop in threads as one over ``cores`` parts, whose rounds any thread may take; it serves any number of threads."""
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
