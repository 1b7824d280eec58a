"""Candidate tiles for AMX, in the order of their estimated cost; and whether windows are gathered for it (im2col).

The cost is a model of Sapphire Rapids, in cycles. Sizes of caches and rates that Intel states are given with each constant.
Those that say *fitted* were set by hand when tiles were first pipelined and timed; how is not on record, so take the reasons
given for likely ones. To fit them again, tune int8 models on the processor (``fxopt build … -b tvm --tune``): each line of the
database then has the seconds of one tile of one task. Choose constants that rank the tiles of each task as these seconds do;
``tests/bench/tvm_int8.py`` shows the effect on whole models.
"""

from __future__ import annotations

import itertools

from fxopt.backends.tvm.machine.amx_registers import ROWS, Registers
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import Tile

_SHAPES = ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1), (2, 2))
"""Lines, and registers of a line, of accumulators: all combinations with up to four of the eight registers."""
_CACHED = 2**20
"""Bytes of weights that stay in the L2 cache, of 2 MB a core, while inputs stream through: half of it."""
_FIRST_CACHE = 2**14
"""Bytes of weights of a tile that stay in the L1 cache, of 48 KB, besides inputs and results: a third of it."""
_LOAD, _FAR_LOAD = 0.5, 1.0
"""Cycles to read a row of 64 bytes: the processor does two such loads a cycle from L1, and at most one line a cycle from
L2."""
_BYTES_OF_A_GROUP = 4
"""Bytes that one lane multiplies and adds; the weight register has one row for so many of a step."""
_LANES = 16
"""Output channels of a vector."""
_REQUANTIZE = {1: 6.0, 2: 4.0, 4: 5.5}
"""Cycles to requantize and store a vector of accumulators, by the vectors of the tile. Fitted: one vector fills a quarter of a
cache line, two half of it; four reuse their factors and biases less well, as they need more registers."""
_RAGGED = 1.3
"""Factor on that where a tile overhangs the result, as stores are guarded. Fitted."""
_NOT_HIDDEN, _NOT_HIDDEN_OF_PARTS = 0.3, 0.2
"""The part of the shorter of multiplying and requantizing that software pipelining does not hide behind the longer; and the
increment where threads write parts of one cache line, as each takes other channels of a position. Fitted."""
_START = 60
"""Overhead of a tile in cycles: registers are zeroed and stored, and the first product has its latency. Fitted."""
_REFILL = 8
"""Bytes of weights per cycle from memory, where they do not stay in the cache and are read again for each tile. Fitted."""
_COPY, _COPY_COST = 16, 2
"""Bytes that im2col copies at a time, as a position has few channels, and cycles for that. Fitted."""


def amx_tiles(geometry: Geometry, vectors: int) -> dict[Tile, float]:
    """Tiles of AMX and their cycles, best first.

    ``rows`` are those of a register, of which there are ``unroll`` in each of ``lines``, by ``vectors``.
    """
    high, wide = geometry.out_size[0], geometry.columns()
    chunks, found = (0, 1) if geometry.out_size[1] is not None else (0,), []
    for across, (lines, down) in itertools.product(_REQUANTIZE, _SHAPES):
        if vectors % across or lines > high or not Registers(lines, down, across, 1, 4).fit:
            continue
        least = -(-wide // (down * -(-wide // (down * ROWS))))
        for rows in sorted({least, min(ROWS, wide)}):
            if down == 1 or rows < wide:
                found += [Tile(rows, across, down, lines, chunk) for chunk in chunks]
    costs = {tile: _cost(geometry, tile, vectors) for tile in found}
    return dict(sorted(costs.items(), key=lambda item: item[1]))


def uses_im2col(geometry: Geometry) -> bool:
    """Whether windows are gathered first: if that costs less than the register rows that short lines leave idle."""
    if geometry.instruction.kind != "amx" or geometry.groups > 1 or geometry.width is None:
        return False
    flat = geometry.im2col()
    if geometry.height == 1 or flat.depth % flat.step:
        return False
    copies = (flat.width or 0) * flat.depth / _COPY
    return _least_cost(flat) + _COPY_COST * copies < _least_cost(geometry)


def weights_stay(geometry: Geometry) -> bool:
    """Whether all weights fit in the cache while inputs stream through."""
    return _weight_bytes(geometry) <= _CACHED


def _weight_bytes(geometry: Geometry) -> int:
    return geometry.vectors * geometry.instruction.lanes * geometry.multiplications * geometry.step


def _least_cost(geometry: Geometry) -> float:
    return min(amx_tiles(geometry, geometry.vectors).values())


def _cost(geometry: Geometry, tile: Tile, vectors: int) -> float:
    """About how many cycles all accumulators take.

    TDPBUSD takes a cycle for each row of positions or of weights, whichever are more: 16 cycles of 2048 operations for full
    registers, as Intel states. Register loads run in parallel, and are the bound where each register is used in few products.
    """
    lines, registers = tile.lines or 1, (tile.lines or 1) * tile.unroll
    tiles = -(-geometry.columns() // (tile.rows * tile.unroll)) * -(-geometry.out_size[0] // lines)
    steps, weight_rows = geometry.multiplications, geometry.step // _BYTES_OF_A_GROUP
    far = steps * geometry.step * _LANES * tile.vectors > _FIRST_CACHE
    reading = registers * tile.rows * _LOAD + tile.vectors * weight_rows * (_FAR_LOAD if far else _LOAD)
    multiplying = steps * max(registers * tile.vectors * max(tile.rows, weight_rows), reading)
    even = geometry.columns() % (tile.rows * tile.unroll) == 0 == geometry.out_size[0] % lines
    requantizing = registers * tile.vectors * tile.rows * _REQUANTIZE[tile.vectors] * (1.0 if even else _RAGGED)
    refill = (tiles - 1) * _weight_bytes(geometry) / _REFILL if tile.chunk and not weights_stay(geometry) else 0.0
    not_hidden = _NOT_HIDDEN + (0.0 if tile.chunk else _NOT_HIDDEN_OF_PARTS)
    each = max(multiplying, requantizing) + not_hidden * min(multiplying, requantizing) + _START
    return tiles * -(-vectors // tile.vectors) * each + refill
