"""Tiles of int32 accumulators: by the common rule for a vector instruction, by the cost model of AMX for tile registers."""

from __future__ import annotations

from dataclasses import dataclass

from fxopt.backends.tvm.tiling.amx import weights_stay
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import Tile

_BESIDE = 4
"""Tiles of vectors that are given all their channels together, so that threads do not write parts of one cache line.

Four tiles of some positions each are enough rows of memory for that, and leave enough rounds for the threads. Chosen, not
fitted; tuning does not vary it.
"""


@dataclass(frozen=True)
class Tiling:
    """A tile of sums: ``lines`` by ``rows`` positions by ``vectors`` of output channels.

    ``rows`` are made of registers of ``register`` positions where the instruction is one on tiles. ``chunk`` such tiles,
    one beside or below the other, are given all their channels before the next ones; 0 if all tiles are given some channels
    before others.
    """

    lines: int
    rows: int
    vectors: int
    unroll: int
    register: int = 0
    chunk: int = 0


def tiling_from(tile: Tile, geometry: Geometry) -> Tiling:
    """The tiling that a tile of the task stands for."""
    if not geometry.in_tile_registers:
        chunk = 1 if geometry.depthwise else _BESIDE if weights_stay(geometry) else 0
        return Tiling(1, tile.rows, tile.vectors, tile.unroll, chunk=chunk)
    return Tiling(tile.lines or 1, tile.rows * tile.unroll, tile.vectors, 1, tile.rows, tile.chunk)
