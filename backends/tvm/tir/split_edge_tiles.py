"""Loop versioning of edge tiles: a tile that lies within the result takes a path without guards, in whole vectors.

before: sums of a tile; copy of them; for each element of the tile: if it is in the result: write it
after:  sums of a tile; if the last element is in the result: write vectors, from the registers of the sums;
        else: copy of them, and as before
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.blocks import rebuilt

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import (
        For,
        ForKind,
        PrimFunc,
        SBlock,
        SBlockRealize,
        Scalar,
        SeqStmt,
        Stmt,
        TensorLoad,
    )

MARK = "fxopt.whole_tiles"
"""Annotation of the block that writes: 1 if the statement before its loops only copies the accumulators out of registers."""


def split_edge_tiles(function: PrimFunc) -> PrimFunc:
    """The kernel with both versions of the marked blocks."""
    from tvm.tirx import SeqStmt
    from tvm_ffi import structural_map

    return function.with_body(structural_map(function.body, (SeqStmt, _two_versions)))


def _two_versions(statements: SeqStmt) -> Stmt:
    from tvm.tirx import IfThenElse
    from tvm.tirx.stmt import stmt_seq

    steps = list(statements.seq)
    for i, step in enumerate(steps):
        loops, realized = _nest(step)
        if realized is None or MARK not in realized.block.annotations:
            continue
        copied = bool(realized.block.annotations[MARK])
        slow = _wrapped(loops, _without_mark(realized, realized.predicate, realized.block))
        _, copy = _nest(steps[i - 1])
        whole = _full_tile(loops, realized, copy if copied else None)
        within = _last_is_inside(realized.predicate, loops)
        if within is None:
            return stmt_seq(*steps[: i - copied], whole, *steps[i + 1 :])
        slow = stmt_seq(*steps[i - copied : i], slow)
        return stmt_seq(*steps[: i - copied], IfThenElse(within, whole, slow), *steps[i + 1 :])
    return statements


def _nest(step: Stmt) -> tuple[list[For], SBlockRealize | None]:
    """Loops one in the other, and the block within; None if there is no such block."""
    from tvm.s_tir import SBlockRealize
    from tvm.tirx import For

    loops = []
    while isinstance(step, For):
        loops.append(step)
        step = step.body
    return loops, step if isinstance(step, SBlockRealize) else None


def _last_is_inside(predicate: Scalar, loops: list[For]) -> Scalar | None:
    """Whether the last element of a tile is inside the result, as all bounds are upper ones; None if it always is."""
    from tvm.sym import Analyzer
    from tvm.tirx import IntImm, Var
    from tvm_ffi import structural_map

    last = {loop.loop_var: loop.min + loop.extent - 1 for loop in loops}
    found = Analyzer().simplify(structural_map(predicate, (Var, lambda var: last.get(var, var))))
    return None if isinstance(found, IntImm) and int(found) else found


def _full_tile(loops: list[For], realized: SBlockRealize, copy: SBlockRealize | None) -> Stmt:
    """The loops without the bound, unrolled and vectorized; values that ``copy`` copies are read from their source."""
    from tvm import ir, tirx
    from tvm_ffi import structural_map

    block = realized.block
    if copy is not None:
        (taken,), (given,) = copy.block.reads, copy.block.writes

        def original(load: TensorLoad) -> TensorLoad:
            if not load.source.same_as(given.source):
                return load
            return tirx.BufferLoad(taken.source, load.indices)

        block = structural_map(block, (ir.TensorLoad, original))
    around = tirx.ForKind.SERIAL if copy is None else tirx.ForKind.UNROLLED
    kinds = [*[around] * (len(loops) - 1), tirx.ForKind.VECTORIZED]
    return _wrapped(loops, _without_mark(realized, tirx.const(True), block), kinds)


def _without_mark(realized: SBlockRealize, predicate: Scalar, block: SBlock) -> SBlockRealize:
    """Replace a block by another, without the annotation."""
    from tvm.s_tir import SBlockRealize

    notes = {key: value for key, value in block.annotations.items() if key != MARK}
    return SBlockRealize(realized.iter_values, predicate, rebuilt(block, annotations=notes))


def _wrapped(loops: list[For], body: Stmt, kinds: list[ForKind] | None = None) -> Stmt:
    from tvm.tirx import For

    for i, loop in reversed(list(enumerate(loops))):
        kind = kinds[i] if kinds else loop.kind
        body = For(loop.loop_var, loop.min, loop.extent, kind, body, None, loop.annotations, loop.step, loop.span)
    return body
