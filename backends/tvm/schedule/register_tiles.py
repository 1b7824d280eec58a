"""Schedules for convolutions and matrix products: register tiles, with accumulators in registers over the whole reduction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxopt.backends.tvm.ops.block_names import CHANNELS, FLUSHED, PACKED, PADDED, SUMS, TILE
from fxopt.backends.tvm.schedule.primitives import (
    blocks_of,
    extent,
    inner_loops,
    is_reduction,
    parallel,
    schedule_alone,
)
from fxopt.backends.tvm.tiling.task import Tile
from fxopt.backends.tvm.tir.split_edge_tiles import MARK

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import LoopRV, SBlockRV, Schedule, Shape

_BYTES, _CACHED = 4, 2**19
"""Bytes of a float, and bytes of weights that stay in the L2 cache besides the inputs: half of the 1 MB that AVX-512 servers
before Sapphire Rapids have."""
_HEIGHTS, _BLOCKS_A_CORE = (8, 7, 6, 5, 4), 4
"""Lines of a block, tallest first: below 4 the lines that two blocks both read cost more than the cache saves. And blocks per
core that are enough where they do not divide evenly, so that a core without one idles for a quarter of the time.
Both are choices that were not measured by themselves; ``tests/bench/tvm_speed.py`` shows their effect on whole models."""
_WINDOW = 7
"""Columns of a window up to which a row of it is unrolled: the widest that is common, as in the first layer of a ResNet."""


def schedule_tiles(sch: Schedule, lanes: int, cores: int) -> None:
    """Tile the accumulation of a kernel, with the element-wise epilogue fused into each tile.

    Its loops are [..., vectors, lines, tiles, rows, lanes], followed by those of the reduction.
    """
    sums = sch.get_sblock(SUMS)
    tile = Tile.from_list([int(value) for value in sch.get(sums).annotations[TILE]])
    channels = str(sch.get(sums).annotations.get(CHANNELS, ""))
    for name in (TILE, CHANNELS) if channels else (TILE,):
        sch.unannotate(sums, name)
    blocks = {sch.get(block).name_hint: block for block in blocks_of(sch)}
    epilogue = split_epilogue(sch, blocks_of(sch))
    for block in epilogue.inlined:
        sch.compute_inline(block)
    padded = blocks.get(PADDED)
    height = 0
    if padded is not None:
        height = _lines_at_once(sch, sums, cores, channels) if tile.lines is None else tile.lines
    outer, over, spread = tile_loops(sch, sums, tile, height, depthwise=channels == "depthwise")
    for block in filter(None, (blocks.get(PACKED), None if height else padded)):
        schedule_alone(sch, block, lanes)
    fuse_epilogue(sch, epilogue, outer[-1], lanes)
    unroll_and_vectorize(sch, sch.get_consumers(sums)[0], len(outer), lanes)
    unroll_and_vectorize(sch, sums, len(outer) + len(over), lanes)
    for block in (sums, *epilogue.copied):  # LLVM takes TVM's own allocations for memory that may alias everything
        sch.set_scope(block, 0, "local")
    if height:
        sch.compute_at(padded, outer[spread - 1], preserve_unit_loops=True)
        inner_loops(sch, padded, lanes, spread)
    # before the reduction is decomposed into two blocks, whose iterations TVM cannot prove independent
    parallel(sch, outer[:spread])
    unroll_and_vectorize(sch, sch.decompose_reduction(sums, over[0]), 1 + len(outer) - spread, lanes)
    for block in epilogue.later:
        schedule_alone(sch, block, lanes)


@dataclass(frozen=True)
class Epilogue:
    """The blocks around the accumulation: ``inlined`` ones, before and after it, go into ``fused``, which runs on each tile.

    ``copied`` is the copy of a tile that ``fused`` reads, where there is one; ``later`` are the blocks from the first one on that
    has another shape than the accumulators, or reduces: they run after all tiles.
    """

    inlined: list[SBlockRV]
    copied: list[SBlockRV]
    fused: SBlockRV
    later: list[SBlockRV]


def split_epilogue(sch: Schedule, blocks: list[SBlockRV]) -> Epilogue:
    """Sort the blocks of a kernel by where they are to run."""
    names = [sch.get(block).name_hint for block in blocks]
    start = names.index(SUMS) + 1
    before = zip(blocks[: start - 1], names, strict=False)
    operands = [block for block, name in before if name not in (PADDED, PACKED)]
    copied = [blocks[start]] if FLUSHED in names else []
    chain = blocks[start + len(copied) :]
    last = last_of_same_shape(sch, chain)
    return Epilogue([*operands, *chain[:last]], copied, chain[last], chain[last + 1 :])


def fuse_epilogue(sch: Schedule, epilogue: Epilogue, loop: LoopRV, lanes: int) -> None:
    """Run the copy of a tile, and what is fused, in a loop over tiles."""
    for block in (*epilogue.copied, epilogue.fused):
        sch.reverse_compute_at(block, loop, preserve_unit_loops=True)
    if epilogue.copied:
        sch.split(sch.get_loops(epilogue.fused)[-1], [None, lanes])
        sch.annotate(epilogue.fused, MARK, 1)


def last_of_same_shape(sch: Schedule, chain: list[SBlockRV]) -> int:
    """Index of the last of the blocks that all have the shape of the first one and do not reduce."""
    shapes, last = [sch.get(block).writes[0].source.shape for block in chain], 0
    while last + 1 < len(chain) and _same(shapes[last + 1], shapes[0]) and not is_reduction(sch, chain[last + 1]):
        last += 1
    return last


def _same(one: Shape, other: Shape) -> bool:
    from tvm_ffi import structural_equal

    return len(one) == len(other) and all(map(structural_equal, one, other))


def _lines_at_once(sch: Schedule, sums: SBlockRV, cores: int, channels: str) -> int:
    """Lines of an image whose inputs are padded at once, so that they stay in the cache; 0 for the whole image.

    There must be enough blocks of lines for the threads, and the weights must not be read too often.
    """
    found = sch.get(sums)
    spatial = [int(var.dom.extent) for var in found.iter_vars[1:3]]
    vectors, lines = spatial
    depthwise = channels == "depthwise"
    if channels == "plain":
        return 0
    weights = 0 if depthwise else _BYTES * _size(found.reads[1].source.shape)
    if weights > _CACHED:
        return 0
    for height in _HEIGHTS:
        blocks = lines // height * (vectors if depthwise else 1)
        if lines % height == 0 and lines > height and (blocks % cores == 0 or blocks >= _BLOCKS_A_CORE * cores):
            return height
    return 0


def _size(shape: Shape) -> int:
    return math.prod(int(size) for size in shape)


def tile_loops(
    sch: Schedule, sums: SBlockRV, tile: Tile, height: int, *, depthwise: bool = False
) -> tuple[list[LoopRV], list[LoopRV], int]:
    """Order the loops of the accumulation; return those outside of a tile, those of the reduction, and how many are parallel.

    With a ``height`` lines are taken in blocks; blocks are outside of the output channels, unless the convolution is depthwise.
    Loops around the accumulation stay.
    """
    kinds = [int(var.iter_type) == 2 for var in sch.get(sums).iter_vars]
    loops = list(sch.get_loops(sums))[-len(kinds) :]
    *lead, vectors, line, tiles, rows, lane = [x for x, reduces in zip(loops, kinds, strict=True) if not reduces]
    over = [x for x, reduces in zip(loops, kinds, strict=True) if reduces]
    vectors, vector = sch.split(vectors, [None, tile.vectors])
    steps = []
    if tile.unroll > 1:
        over[-1], step = sch.split(over[-1], [None, tile.unroll])
        steps = [step]
    elif len(over) > 1 and (extent(sch, over[-1]) or 0) <= _WINDOW:
        steps = [over.pop()]
    if height:
        block, line = sch.split(line, [None, height])
        outer = [*lead, vectors, block, line, tiles] if depthwise else [*lead, block, vectors, line, tiles]
        spread = len(lead) + (2 if depthwise else 1)
    else:
        outer = [*lead, vectors, line, tiles]
        spread = len(outer) - 1
    sch.reorder(*outer, *over, *steps, vector, rows, lane)
    return outer, over, spread


def unroll_and_vectorize(sch: Schedule, block: SBlockRV, depth: int, lanes: int) -> None:
    """Unroll the loops of a block inside of ``depth`` others, and vectorize the last."""
    *loops, last = list(sch.get_loops(block))[depth:]
    size = extent(sch, last)
    if size and size > lanes:
        between, last = sch.split(last, [None, lanes])
        loops.append(between)
    for loop in loops:
        sch.unroll(loop)
    sch.vectorize(last)
