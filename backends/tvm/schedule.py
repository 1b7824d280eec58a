"""Loops for the kernels of a compiled module: tiles in registers for what multiplies, rows for the rest."""

from __future__ import annotations

from typing import Any

from fxopt.backends.tvm.rows import schedule_rows
from fxopt.backends.tvm.tiles import SUMS, schedule_tiles


def schedule_module(module: Any, lanes: int) -> Any:
    """Give every kernel of a module its loops, for vectors of ``lanes`` float32."""
    import tvm
    from tvm.tirx import PrimFunc

    made = {}
    for name, function in module.functions.items():
        made[name] = _scheduled(function, lanes) if isinstance(function, PrimFunc) else function
    return tvm.IRModule(made, attrs=module.attrs)


def _scheduled(function: Any, lanes: int) -> Any:
    import tvm
    from tvm.s_tir import Schedule

    sch = Schedule(tvm.IRModule({"main": function}))
    names = [sch.get(block).name_hint for block in sch.get_child_blocks(sch.get_sblock("root"))]
    if SUMS in names:
        schedule_tiles(sch, lanes)
    else:
        sch = schedule_rows(sch, lanes)
    return sch.mod["main"]
