"""Loops for the kernels of a compiled module: tiles in registers for what multiplies, rows for the rest."""

from __future__ import annotations

from typing import Any

from fxopt.backends.tvm.integers.schedule import is_integer, schedule_integers
from fxopt.backends.tvm.overlapping import with_overlapping
from fxopt.backends.tvm.processor import Processor
from fxopt.backends.tvm.rows import schedule_rows
from fxopt.backends.tvm.tiles import SUMS, schedule_tiles
from fxopt.backends.tvm.whole_tiles import with_whole_tiles
from fxopt.backends.tvm.winograd import INPUT
from fxopt.backends.tvm.winograd_loops import schedule_winograd


def schedule_module(module: Any, processor: Processor) -> Any:
    """Give every kernel of a module its loops, for the vectors and cores of a processor."""
    import tvm
    from tvm.tirx import PrimFunc

    made = {}
    for name, function in module.functions.items():
        made[name] = with_overlapping(_scheduled(function, processor)) if isinstance(function, PrimFunc) else function
    return tvm.IRModule(made, attrs=module.attrs)


def _scheduled(function: Any, processor: Processor) -> Any:
    import tvm
    from tvm.s_tir import Schedule

    sch = Schedule(tvm.IRModule({"main": function}))
    names = [sch.get(block).name_hint for block in sch.get_child_blocks(sch.get_sblock("root"))]
    if INPUT in names:
        schedule_winograd(sch, processor.lanes)
        return sch.mod["main"]
    if SUMS in names and is_integer(sch):
        return with_whole_tiles(schedule_integers(sch, processor.lanes))
    if SUMS in names:
        schedule_tiles(sch, processor.lanes, processor.cores)
        return with_whole_tiles(sch.mod["main"])
    return schedule_rows(sch, processor.lanes).mod["main"]
