"""Schedules for Winograd convolutions: squares of inputs and of outputs are transformed in registers, products are tiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.ops.block_names import SUMS, TILE
from fxopt.backends.tvm.ops.winograd import COLUMNS, INPUT, LINES, SQUARES, STRIP
from fxopt.backends.tvm.schedule.primitives import blocks_of, parallel, schedule_alone
from fxopt.backends.tvm.schedule.register_tiles import last_of_same_shape, tile_loops, unroll_and_vectorize
from fxopt.backends.tvm.tiling.task import Tile

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import LoopRV, SBlockRV, Schedule

_OUTSIDE = 2
"""Loops over images and strips, outside of all others."""


def schedule_winograd(sch: Schedule, lanes: int) -> None:
    """One strip after the other: its inputs, then its products, then its outputs, each parallelized."""
    blocks = blocks_of(sch)
    names = [sch.get(block).name_hint for block in blocks]
    operands, after = blocks[: names.index(COLUMNS)], blocks[names.index(SQUARES) + 1 :]
    for block in operands:
        sch.compute_inline(block)
    rows, side = (int(size) for size in sch.get(after[0]).annotations[STRIP])
    sch.unannotate(after[0], STRIP)
    last = last_of_same_shape(sch, after)
    for block in after[:last]:
        sch.compute_inline(block)
    n, vector, y, x, lane = sch.get_loops(after[last])
    strip, y = sch.split(y, [None, rows])
    down, y = sch.split(y, [None, side])
    across, x = sch.split(x, [None, side])
    sch.reorder(n, strip, down, across, vector, y, x, lane)
    for name in (SQUARES, LINES):
        sch.compute_at(sch.get_sblock(name), vector, preserve_unit_loops=True)
    _products(sch, strip, lanes)
    _inputs(sch, strip, lanes)
    for name in (SQUARES, LINES):
        _in_registers(sch, sch.get_sblock(name), _OUTSIDE + 3, lanes)
    unroll_and_vectorize(sch, after[last], _OUTSIDE + 3, lanes)
    parallel(sch, [down, across])
    for block in after[last + 1 :]:
        schedule_alone(sch, block, lanes)


def _products(sch: Schedule, strip: LoopRV, lanes: int) -> None:
    sums = sch.get_sblock(SUMS)
    tile = Tile.from_list([int(value) for value in sch.get(sums).annotations[TILE]])
    sch.unannotate(sums, TILE)
    (multiplied,) = sch.get_consumers(sums)
    for block in (multiplied, sums):
        sch.compute_at(block, strip, preserve_unit_loops=True)
    outer, over, spread = tile_loops(sch, sums, tile, 0)
    sch.reverse_compute_at(multiplied, outer[-1], preserve_unit_loops=True)
    depth = _OUTSIDE + len(outer)
    unroll_and_vectorize(sch, multiplied, depth, lanes)
    unroll_and_vectorize(sch, sums, depth + len(over), lanes)
    sch.set_scope(sums, 0, "local")
    parallel(sch, outer[:spread])
    unroll_and_vectorize(sch, sch.decompose_reduction(sums, over[0]), 1 + depth - spread, lanes)


def _inputs(sch: Schedule, strip: LoopRV, lanes: int) -> None:
    turned, columns = sch.get_sblock(INPUT), sch.get_sblock(COLUMNS)
    sch.compute_at(turned, strip, preserve_unit_loops=True)
    unit, i, j, square, channels = list(sch.get_loops(turned))[_OUTSIDE:]
    block, lane = sch.split(channels, [None, lanes])
    sch.reorder(unit, square, block, i, j, lane)
    sch.compute_at(columns, block, preserve_unit_loops=True)
    _in_registers(sch, columns, _OUTSIDE + 3, lanes)
    unroll_and_vectorize(sch, turned, _OUTSIDE + 3, lanes)
    parallel(sch, [unit, square])


def _in_registers(sch: Schedule, block: SBlockRV, depth: int, lanes: int) -> None:
    """Unroll the loops of a block inside of ``depth`` others, on values that stay in registers."""
    sch.set_scope(block, 0, "local")
    unroll_and_vectorize(sch, block, depth, lanes)
