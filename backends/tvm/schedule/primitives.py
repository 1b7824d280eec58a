"""Small steps that all schedules share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.overlap_tail import OVERLAPPING

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import LoopRV, SBlockRV, Scalar, Schedule, Var

_FEW = 8
"""Vectors of accumulators that stay in registers, with room for operands: half of the 16 that the smallest target has."""


def blocks_of(sch: Schedule) -> list[SBlockRV]:
    """The blocks of a kernel, in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def is_reduction(sch: Schedule, block: SBlockRV) -> bool:
    """Whether a block sums, or takes a maximum, over something."""
    return any(int(var.iter_type) == 2 for var in sch.get(block).iter_vars)


def has_loops(sch: Schedule, block: SBlockRV) -> bool:
    """Whether a block has loops of its own inside, which are not scheduled, as over windows of several sizes."""
    from tvm import tirx

    return isinstance(sch.get(block).body, tirx.For)


def extent(sch: Schedule, loop: LoopRV) -> int | None:
    """The static extent of a loop; None where it is dynamic."""
    from tvm import tirx

    size = sch.get(loop).extent
    return int(size) if isinstance(size, tirx.IntImm) else None


def parallel(sch: Schedule, loops: list[LoopRV]) -> LoopRV:
    """Fuse loops and parallelize them, where :mod:`parallel_threshold` finds that there is enough to do."""
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    sch.parallel(fused)
    return fused


def vectorize(sch: Schedule, loop: LoopRV, lanes: int) -> None:
    """Vectorize a loop, with a last vector that may overlap the one before; a loop of dynamic size is left to LLVM."""
    size = extent(sch, loop)
    if size is None or size < lanes:
        return
    if size % lanes:
        sch.annotate(loop, OVERLAPPING, lanes)
        return
    if size > lanes:
        _, loop = sch.split(loop, [None, lanes])
    sch.vectorize(loop)


def schedule_alone(sch: Schedule, block: SBlockRV, lanes: int) -> None:
    """Parallelize a block, and vectorize its innermost loop, or the one around it if that is short."""
    loops = list(sch.get_loops(block))
    kinds = [int(var.iter_type) == 2 for var in sch.get(block).iter_vars]
    outer = loops[: kinds.index(True) if True in kinds else len(kinds)][:-1]
    if not any(kinds) and len(outer) > 1 and _short(sch, loops[-1], lanes):
        outer = outer[:-1]
    if not outer:
        inner_loops(sch, block, lanes, 0)
        return
    parallel(sch, outer)
    inner_loops(sch, block, lanes, 1)


def inner_loops(sch: Schedule, block: SBlockRV, lanes: int, depth: int) -> None:
    """Order and vectorize the loops of a block that are inside of ``depth`` others.

    A reduction goes outside of the innermost dim if that is contiguous in memory, so that it is vectorized; else it stays
    innermost.
    """
    loops = list(sch.get_loops(block))[depth:]
    if not loops or has_loops(sch, block):
        return
    if not is_reduction(sch, block):
        if len(loops) > 1 and _short(sch, loops[-1], lanes):
            sch.unroll(loops[-1])  # LLVM vectorizes the loop around it
        else:
            vectorize(sch, loops[-1], lanes)
        return
    kinds = [int(var.iter_type) == 2 for var in sch.get(block).iter_vars][-len(loops) :]
    spatial = [loop for loop, reduces in zip(loops, kinds, strict=True) if not reduces]
    reducing = [loop for loop, reduces in zip(loops, kinds, strict=True) if reduces]
    if spatial and _is_contiguous(sch, block):
        sch.reorder(*spatial[:-1], *reducing, spatial[-1])
        _vectorize_sums(sch, spatial[-1], lanes)
        first = sch.decompose_reduction(block, reducing[0])
        vectorize(sch, sch.get_loops(first)[-1], lanes)


def _vectorize_sums(sch: Schedule, loop: LoopRV, lanes: int) -> None:
    """Vectorize a loop inside of a reduction; a few vectors are unrolled, and stay in registers."""
    size = extent(sch, loop)
    if size and size % lanes == 0 and lanes < size <= _FEW * lanes:
        vectors, loop = sch.split(loop, [None, lanes])
        sch.unroll(vectors)
    vectorize(sch, loop, lanes)


def _short(sch: Schedule, loop: LoopRV, lanes: int) -> bool:
    """Whether a loop is known to be much shorter than a vector."""
    return (extent(sch, loop) or lanes) <= lanes // 2


def _is_contiguous(sch: Schedule, block: SBlockRV) -> bool:
    """Whether the last dim of a reduction's result is the last one of its operand."""
    found = sch.get(block)
    spatial = [var.var for var in found.iter_vars if int(var.iter_type) != 2]
    return any(_depends(region.region[-1].min, spatial[-1]) for region in found.reads if len(region.region))


def _depends(index: Scalar, variable: Var) -> bool:
    if index.same_as(variable):
        return True
    operands = [getattr(index, name, None) for name in ("a", "b", "value")]
    return any(_depends(operand, variable) for operand in operands if hasattr(operand, "same_as"))
