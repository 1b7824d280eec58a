"""Schedules for int8 kernels: register tiles of int32 accumulators, with the epilogue fused into each tile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fxopt.backends.tvm.ops.block_names import INT8_KERNEL, PACKED, PADDED, SUMS, TILE
from fxopt.backends.tvm.schedule.primitives import blocks_of, extent, parallel, schedule_alone, vectorize
from fxopt.backends.tvm.schedule.register_tiles import Epilogue, fuse_epilogue, split_epilogue, unroll_and_vectorize
from fxopt.backends.tvm.tiling.int8 import Tiling
from fxopt.backends.tvm.tir.amx_intrinsics import MARK, MULTIPLY, STORE, ZERO, use_amx_instructions
from fxopt.backends.tvm.tir.dot_intrinsics import dot_intrinsic
from fxopt.backends.tvm.tir.split_edge_tiles import MARK as MARK_WRITES

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import LoopRV, PrimFunc, SBlockRV, Schedule

_TILES, _ROUNDS = 16, 24
"""AMX tiles in one parallel iteration, at most, and parallel iterations, at least.

The first and last tile of an iteration are not overlapped with another, so that 16 tiles lose a sixteenth of the gain by
pipelining; and 24 iterations divide evenly among 2, 3, 4, 6, 8 and 12 threads. Chosen, not fitted; ``tests/bench/tvm_int8.py``
times models.
"""


def is_int8(sch: Schedule) -> bool:
    """Whether a kernel has integer accumulators."""
    return INT8_KERNEL in sch.get(sch.get_sblock(SUMS)).annotations


def schedule_int8(sch: Schedule, lanes: int) -> PrimFunc:
    """Cut integer sums [n, vectors, blocks of lines, tiles, lines, rows, lanes] into tiles; return the kernel."""
    sums = sch.get_sblock(SUMS)
    notes = sch.get(sums).annotations
    tiling, kind = Tiling(*(int(value) for value in notes[TILE])), str(notes[INT8_KERNEL])
    sch.unannotate(sums, TILE)
    sch.unannotate(sums, INT8_KERNEL)
    blocks = {sch.get(block).name_hint: block for block in blocks_of(sch)}
    epilogue = split_epilogue(sch, blocks_of(sch))
    for block in epilogue.inlined:
        sch.compute_inline(block)
    if (padded := blocks.get(PADDED)) is not None:
        schedule_alone(sch, padded, lanes)
    if (packed := blocks.get(PACKED)) is not None:
        parallel(sch, list(sch.get_loops(packed))[:2])  # not the others, which LLVM vectorizes by itself
    if kind == "amx":
        _schedule_amx(sch, sums, tiling, epilogue, lanes)
        return use_amx_instructions(sch.mod["main"])
    n, vectors, block, tiles, line, rows, lane, *over = sch.get_loops(sums)
    vectors, vector = sch.split(vectors, [None, tiling.vectors])
    inner = []
    if kind != "depthwise":
        r, s, step, part, group = over
        over, inner = [r, s, part, step], [group]
    if tiling.unroll > 1:
        over[-1], step = sch.split(over[-1], [None, tiling.unroll])
        steps = [step]
    else:
        steps = [over.pop()] if kind == "depthwise" else []
    outer = _order_loops(sch, n, vectors, block, tiles, tiling.chunk)
    dots = kind not in ("depthwise", "plain")
    sch.reorder(*outer, *over, *steps, *([] if dots else inner), vector, line, rows, lane, *(inner if dots else []))
    fuse_epilogue(sch, epilogue, outer[-1], lanes)
    unroll_and_vectorize(sch, sch.get_consumers(sums)[0], len(outer), lanes)
    for loop in (*steps, vector, line, rows):
        sch.unroll(loop)
    if not dots:
        sch.vectorize(lane)
    sch.set_scope(sums, 0, "local")
    depth = _distribute(sch, outer)
    first = sch.decompose_reduction(sums, over[0])
    unroll_and_vectorize(sch, first, depth, lanes)
    if dots:
        sch.tensorize(lane, dot_intrinsic(kind, lanes))
    for later in epilogue.later:
        schedule_alone(sch, later, lanes)
    return sch.mod["main"]


def _schedule_amx(sch: Schedule, sums: SBlockRV, tiling: Tiling, epilogue: Epilogue, lanes: int) -> None:
    n, vectors, block, tiles, line, rows, lane, r, s, step, part, group = sch.get_loops(sums)
    size = (extent(sch, part) or 1) * (extent(sch, group) or 1)
    vectors, vector = sch.split(vectors, [None, tiling.vectors])
    down, register = sch.split(rows, [None, tiling.register])
    outer = _order_loops(sch, n, vectors, block, tiles, tiling.chunk)
    sch.reorder(*outer, r, s, step, vector, line, down, register, lane, part, group)
    (stored,) = epilogue.copied
    for later in (stored, epilogue.fused):
        sch.reverse_compute_at(later, outer[-1], preserve_unit_loops=True)
    vectorize(sch, sch.get_loops(epilogue.fused)[-1], lanes)
    sch.annotate(epilogue.fused, MARK_WRITES, 0)
    _, at_block, at_tile, at_lines, at_rows, at_vectors, at_lane = list(sch.get_loops(stored))[len(outer) :]
    at_down, at_register = sch.split(at_rows, [None, tiling.register])
    sch.reorder(at_block, at_tile, at_vectors, at_lines, at_down, at_register, at_lane)
    sch.set_scope(sums, 0, "local")
    depth = _distribute(sch, outer)
    first = sch.decompose_reduction(sums, r)
    registers = (tiling.lines, tiling.rows // tiling.register, tiling.vectors, tiling.register, size)
    for what, loop in ((ZERO, sch.get_loops(first)[depth]), (MULTIPLY, vector), (STORE, at_vectors)):
        sch.annotate(sch.blockize(loop), MARK, [what, *registers])
    for later in epilogue.later:
        schedule_alone(sch, later, lanes)


def _order_loops(sch: Schedule, n: LoopRV, vectors: LoopRV, block: LoopRV, tiles: LoopRV, chunk: int) -> list[LoopRV]:
    """The loops over tiles: ``chunk`` of them get all their channels before the next; 0: the loop over channels is outermost."""
    wide = extent(sch, tiles)
    if not chunk or wide is None:
        return [n, vectors, block, tiles]
    if chunk < wide:
        beyond, tiles = sch.split(tiles, [None, _divisor(wide, chunk)])
        return [n, block, beyond, vectors, tiles]
    beyond, block = sch.split(block, [None, _divisor(extent(sch, block) or 1, chunk // wide)])
    return [n, beyond, vectors, block, tiles]


def _distribute(sch: Schedule, loops: list[LoopRV]) -> int:
    """Parallelize the outermost of the loops over tiles, and fuse the others: up to ``_TILES`` tiles an iteration.

    The tiles of an iteration are pipelined, so it should have many; but there must be enough iterations for the threads.
    Returns how many loops there are then.
    """
    over, inner = list(loops), list["LoopRV"]()
    rounds, tiles = math.prod(extent(sch, loop) or 1 for loop in over), 1
    while len(over) > 1:
        size = extent(sch, over[-1])
        if size is None:
            inner.insert(0, over.pop())
            break
        part = _divisor(size, min(_TILES // tiles, rounds // _ROUNDS))
        tiles, rounds = tiles * part, rounds // part
        if part == size:
            inner.insert(0, over.pop())
            continue
        if part > 1:
            over[-1], within = sch.split(over[-1], [None, part])
            inner.insert(0, within)
        break
    if len(inner) > 1:
        sch.fuse(*inner)
    parallel(sch, over)
    return 1 + bool(inner)


def _divisor(size: int, most: int) -> int:
    """The largest divisor of a loop's extent, up to ``most``."""
    return max((part for part in range(1, most + 1) if size % part == 0), default=1)
