"""Schedules for the kernels of a compiled module: register tiles for contractions, rows for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.machine.processor import Processor
from fxopt.backends.tvm.ops.block_names import SUMS
from fxopt.backends.tvm.ops.winograd import INPUT
from fxopt.backends.tvm.schedule.elementwise import schedule_rows
from fxopt.backends.tvm.schedule.int8 import is_int8, schedule_int8
from fxopt.backends.tvm.schedule.register_tiles import schedule_tiles
from fxopt.backends.tvm.schedule.winograd import schedule_winograd
from fxopt.backends.tvm.tir.overlap_tail import overlap_tails
from fxopt.backends.tvm.tir.split_edge_tiles import split_edge_tiles

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import IRModule, PrimFunc


def schedule_module(module: IRModule, processor: Processor) -> IRModule:
    """Schedule every kernel of a module, for the vectors and cores of a processor."""
    import tvm
    from tvm.tirx import PrimFunc

    made = {}
    for name, function in module.functions.items():
        made[name] = overlap_tails(_scheduled(function, processor)) if isinstance(function, PrimFunc) else function
    return tvm.IRModule(made, attrs=module.attrs)


def _scheduled(function: PrimFunc, processor: Processor) -> PrimFunc:
    import tvm
    from tvm.s_tir import Schedule

    sch = Schedule(tvm.IRModule({"main": function}))
    if not _has_root(function):
        return function
    names = [sch.get(block).name_hint for block in sch.get_child_blocks(sch.get_sblock("root"))]
    if INPUT in names:
        schedule_winograd(sch, processor.lanes)
        return sch.mod["main"]
    if SUMS in names and is_int8(sch):
        return split_edge_tiles(schedule_int8(sch, processor.lanes))
    if SUMS in names:
        schedule_tiles(sch, processor.lanes, processor.cores)
        return split_edge_tiles(sch.mod["main"])
    return schedule_rows(sch, processor.lanes).mod["main"]


def _has_root(function: PrimFunc) -> bool:
    """Whether its blocks are in one that can be scheduled; a scatter is written as loops, which stay."""
    from tvm.s_tir import SBlockRealize

    return isinstance(function.body, SBlockRealize) and function.body.block.name_hint == "root"
