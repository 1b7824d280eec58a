"""Schedules for kernels without contractions: element-wise ops, pools, softmax, norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.schedule.primitives import (
    blocks_of,
    has_loops,
    inner_loops,
    is_reduction,
    parallel,
    schedule_alone,
)

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import SBlockRV, Schedule, TensorLoad


def schedule_rows(sch: Schedule, lanes: int) -> Schedule:
    """Parallelize over rows, with everything that a row needs computed with it; else schedule block by block.

    Returns the schedule that holds the result.
    """
    from tvm.s_tir.schedule import ScheduleError

    _fold_chains(sch)
    blocks = blocks_of(sch)
    rows = len(sch.get_loops(blocks[-1])) > 1  # a scalar, or a single row, has nothing to parallelize
    if rows and len(blocks) > 1 and any(is_reduction(sch, block) for block in blocks):
        together = sch.copy()
        try:
            _rows_together(together, lanes)
            return together
        except ScheduleError:  # only TVM's schedule knows which loops do not nest
            pass
    for block in blocks:
        schedule_alone(sch, block, lanes)
    return sch


def _fold_chains(sch: Schedule) -> None:
    """Inline element-wise blocks into their reader, if there is one that reads each element once, not in a reduction."""
    for block in blocks_of(sch)[:-1]:
        readers = sch.get_consumers(block)
        if is_reduction(sch, block) or has_loops(sch, block) or len(readers) != 1:
            continue
        padding = sch.get(block).name_hint.startswith("pad")
        as_many = len(sch.get(block).iter_vars) >= len(sch.get(readers[0]).iter_vars)
        if padding or (as_many and not is_reduction(sch, readers[0]) and _read_at_one_place(sch, block, readers[0])):
            sch.compute_inline(block)


def _read_at_one_place(sch: Schedule, block: SBlockRV, reader: SBlockRV) -> bool:
    """Whether a reader reads one element of a block's result for each of its own, maybe several times."""
    from tvm import ir
    from tvm_ffi import structural_equal, structural_map

    found, given = list["TensorLoad"](), sch.get(block).writes[0].source

    def note(load: TensorLoad) -> TensorLoad:
        if load.source.same_as(given):
            found.append(load)
        return load

    structural_map(sch.get(reader).body, (ir.TensorLoad, note))
    return all(structural_equal(load.indices, found[0].indices, True) for load in found)


def _rows_together(sch: Schedule, lanes: int) -> None:
    *before, last = blocks_of(sch)
    row = parallel(sch, list(sch.get_loops(last))[:-1])
    for block in reversed(before):
        sch.compute_at(block, row, preserve_unit_loops=True)
    for block in (*before, last):
        inner_loops(sch, block, lanes, 1)
