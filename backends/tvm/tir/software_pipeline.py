"""Software pipelining of AMX tiles: the epilogue of a tile runs while the next tile is multiplied.

before: for each tile: multiply, store the sums, read and round them
after:  for each tile: multiply, read and round the sums of the tile before, store the sums; then those of the last

The tile unit and the vector units then work at the same time. Without this, out-of-order execution does not reach far enough
to find the next multiplication. One buffer of accumulators is enough, as they are read before it is written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.blocks import map_kernels

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import For, IRModule, Scalar, Stmt, Var

_STORES = "tilestored64"


def software_pipelined(module: IRModule) -> IRModule:
    """The module with its loops over tiles of AMX pipelined."""
    from tvm import tirx

    return tirx.transform.ConvertSSA()(map_kernels(module, tirx.For, _pipeline_loop))


def _pipeline_loop(loop: For) -> Stmt:
    from tvm import tirx
    from tvm.tirx.stmt import stmt_seq

    steps = list(loop.body.seq) if isinstance(loop.body, tirx.SeqStmt) else []
    stores = [i for i, step in enumerate(steps) if isinstance(step, tirx.Evaluate) and _STORES in str(step)]
    if not stores or loop.kind != tirx.ForKind.SERIAL:
        return loop
    first, after = stores[0], stores[-1] + 1
    bound = [step for step in steps[:first] if isinstance(step, tirx.Bind)]
    read = stmt_seq(*bound, *steps[after:])
    before = tirx.IfThenElse(loop.loop_var > loop.min, _at(read, loop.loop_var, loop.loop_var - 1), None)
    body = tirx.SeqStmt([*steps[:first], before, *steps[first:after]])
    whole = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations)
    last = _at(read, loop.loop_var, loop.min + loop.extent - 1)
    return tirx.SeqStmt([whole, tirx.IfThenElse(loop.extent > 0, last, None)])


def _at(statement: Stmt, var: Var, value: Scalar) -> Stmt:
    from tvm.tirx import Var
    from tvm_ffi import structural_map

    return structural_map(statement, (Var, lambda found: value if found.same_as(var) else found))
