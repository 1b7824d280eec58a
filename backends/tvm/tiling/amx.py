"""The tiles that AMX may be given, in the order of what they are likely to cost; and whether windows are gathered for it."""

from __future__ import annotations

import itertools

from fxopt.backends.tvm.machine.amx_registers import ROWS, Registers
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import Tile

_CACHED = 2**20
"""Bytes of weights that stay in the cache while positions pass by."""
_SHAPES = ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1), (2, 2))
"""Lines, and registers of a line, that sums are held for."""


def offered(geometry: Geometry, vectors: int) -> tuple[Tile, ...]:
    """Tiles of AMX, best first: ``rows`` of a register, ``unroll`` registers in each of ``lines``, by ``vectors``."""
    high, wide = geometry.out_size[0], geometry.columns()
    chunks, found = (0, 1) if geometry.out_size[1] is not None else (0,), []
    for across, (lines, down) in itertools.product((1, 2, 4), _SHAPES):
        if vectors % across or lines > high or not Registers(lines, down, across, 1, 4).fit:
            continue
        least = -(-wide // (down * -(-wide // (down * ROWS))))
        for rows in sorted({least, min(ROWS, wide)}):
            if down == 1 or rows < wide:
                found += [Tile(rows, across, down, lines, chunk) for chunk in chunks]
    return tuple(sorted(found, key=lambda tile: _price(geometry, tile, vectors)))


def uses_im2col(geometry: Geometry) -> bool:
    """Whether to gather windows first: where that costs less than what rows of registers beyond short lines do."""
    if geometry.instruction.kind != "amx" or geometry.groups > 1 or geometry.width is None:
        return False
    flat = geometry.im2col()
    if geometry.height == 1 or flat.depth % flat.step:
        return False
    copied = (flat.width or 0) * flat.depth / 16
    return _least(flat) + 2 * copied < _least(geometry)


def weights_stay(geometry: Geometry) -> bool:
    """Whether all weights are few enough to stay in the cache while positions pass by."""
    return _weights(geometry) <= _CACHED


def _weights(geometry: Geometry) -> int:
    """Bytes of all weights."""
    return geometry.vectors * geometry.instruction.lanes * _steps(geometry) * geometry.step


def _steps(geometry: Geometry) -> int:
    """Times that ``geometry.step`` bytes are multiplied for a sum."""
    return geometry.kernel[0] * geometry.columns_apart * geometry.steps


def _least(geometry: Geometry) -> float:
    return min(_price(geometry, tile, geometry.vectors) for tile in offered(geometry, geometry.vectors))


def _price(geometry: Geometry, tile: Tile, vectors: int) -> float:
    """About how many cycles the sums take.

    An instruction takes a cycle for each row of positions or of weights, whichever are more; a row of 64 bytes is read in half
    a cycle, and one of weights that are not in the first cache in a whole one. To round a vector takes four cycles or more,
    most of which are beside the multiplications of the next tile.
    """
    lines, count = tile.lines or 1, (tile.lines or 1) * tile.unroll
    positions = -(-geometry.columns() // (tile.rows * tile.unroll)) * -(-geometry.out_size[0] // lines)
    steps = _steps(geometry)
    weights = geometry.step // 4
    far = steps * geometry.step * 16 * tile.vectors > 2**14
    reading = count * tile.rows / 2 + tile.vectors * weights * (1.0 if far else 0.5)
    multiplying = steps * max(count * tile.vectors * max(tile.rows, weights), reading)
    even = geometry.columns() % (tile.rows * tile.unroll) == 0 == geometry.out_size[0] % lines
    rounding = count * tile.vectors * tile.rows * {1: 6.0, 2: 4.0, 4: 5.5}[tile.vectors] * (1.0 if even else 1.3)
    moved = (positions - 1) * _weights(geometry) / 8 if tile.chunk and not weights_stay(geometry) else 0.0
    apart = 0.0 if tile.chunk else 0.2  # of a line of the cache, threads write halves
    each = max(multiplying, rounding) + (0.3 + apart) * min(multiplying, rounding) + 60
    return positions * -(-vectors // tile.vectors) * each + moved
