"""Loops for convolutions and matrix products: tiles whose sums stay in registers while the inputs pass by."""

from __future__ import annotations

from typing import Any

from fxopt.backends.tvm.loops import blocks_of, extent, inner_loops, is_reduction, parallel
from fxopt.backends.tvm.tasks import Tile

SUMS = "blocked_sums"
"""Name of the block that multiplies and adds."""
PADDED, PACKED = "padded_input", "packed_columns"
"""Names of blocks that bring an operand into the form that it is read in."""
FLUSHED = "flushed"
"""Name of the copy of a tile that is read element by element, where the last vector overhangs."""
TILE = "fxopt.tile"
"""Annotation of the block that multiplies: rows, vectors and unroll of its tile."""
_WINDOW = 7
"""Columns of a kernel's window up to which a row of it is written out."""


def schedule_tiles(sch: Any, lanes: int) -> None:
    """Cut the sums of a kernel into tiles, with what is element-wise behind them computed on each tile as it is done.

    The sums are [..., vectors, lines, tiles, rows, lanes], with what they run over behind.
    """
    sums = sch.get_sblock(SUMS)
    tile = Tile(*(int(value) for value in sch.get(sums).annotations[TILE]))
    sch.unannotate(sums, TILE)
    flushed = False
    for block in blocks_of(sch)[:-1]:
        name = sch.get(block).name_hint
        flushed = flushed or name == FLUSHED
        if name in (PADDED, PACKED):
            parallel(sch, list(sch.get_loops(block))[:-1])
            inner_loops(sch, block, lanes, 1)
        elif name != FLUSHED and not is_reduction(sch, block):
            sch.compute_inline(block)
    outer, over = _cut(sch, sums, tile)
    readers = [sch.get_sblock(FLUSHED)] if flushed else []
    for block in (*readers, blocks_of(sch)[-1]):
        sch.reverse_compute_at(block, outer[-1], preserve_unit_loops=True)
    _write_out(sch, sch.get_consumers(sums)[0], len(outer), lanes)
    _write_out(sch, sums, len(outer) + len(over), lanes)
    sch.set_scope(sums, 0, "local")
    parallel(sch, outer[:-1])  # before the sums fall apart into two blocks, of which TVM cannot say that rounds are independent
    _write_out(sch, sch.decompose_reduction(sums, over[0]), 2, lanes)


def _cut(sch: Any, sums: Any, tile: Tile) -> tuple[list[Any], list[Any]]:
    """Order the loops of the sums; return those outside of a tile, and those that a tile stays for."""
    loops = list(sch.get_loops(sums))
    kinds = [int(var.iter_type) == 2 for var in sch.get(sums).iter_vars]
    *outer, vectors, line, tiles, rows, lane = [x for x, reduces in zip(loops, kinds, strict=True) if not reduces]
    over = [x for x, reduces in zip(loops, kinds, strict=True) if reduces]
    vectors, vector = sch.split(vectors, [None, tile.vectors])
    steps = []
    if tile.unroll > 1:
        over[-1], step = sch.split(over[-1], [None, tile.unroll])
        steps = [step]
    elif len(over) > 1 and (extent(sch, over[-1]) or 0) <= _WINDOW:
        steps = [over.pop()]
    outer += [vectors, line, tiles]
    sch.reorder(*outer, *over, *steps, vector, rows, lane)
    return outer, over


def _write_out(sch: Any, block: Any, depth: int, lanes: int) -> None:
    """Unroll the loops of a block inside of ``depth`` others, and make vectors of the last."""
    *loops, last = list(sch.get_loops(block))[depth:]
    size = extent(sch, last)
    if size and size > lanes:
        between, last = sch.split(last, [None, lanes])
        loops.append(between)
    for loop in loops:
        sch.unroll(loop)
    sch.vectorize(last)
