"""Loops for the kernels of a compiled module: tiles in registers for what multiplies, rows for the rest."""

from __future__ import annotations

from typing import Any

from fxopt.backends.tvm.integers.schedule import is_integer, schedule_integers
from fxopt.backends.tvm.processor import Processor
from fxopt.backends.tvm.rows import schedule_rows
from fxopt.backends.tvm.tiles import SUMS, schedule_tiles


def schedule_module(module: Any, processor: Processor) -> Any:
    """Give every kernel of a module its loops, for the vectors and cores of a processor."""
    import tvm
    from tvm.tirx import PrimFunc

    made = {}
    for name, function in module.functions.items():
        made[name] = _scheduled(function, processor) if isinstance(function, PrimFunc) else function
    return tvm.IRModule(made, attrs=module.attrs)


def _scheduled(function: Any, processor: Processor) -> Any:
    import tvm
    from tvm.s_tir import Schedule

    sch = Schedule(tvm.IRModule({"main": function}))
    names = [sch.get(block).name_hint for block in sch.get_child_blocks(sch.get_sblock("root"))]
    if SUMS in names and is_integer(sch):
        return schedule_integers(sch, processor.lanes)
    if SUMS in names:
        schedule_tiles(sch, processor.lanes, processor.cores)
    else:
        sch = schedule_rows(sch, processor.lanes)
    return sch.mod["main"]
