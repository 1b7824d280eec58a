"""Tiles of int32 accumulators: by the common rule for a vector instruction, by the cost model of AMX for tile registers."""

from __future__ import annotations

from dataclasses import dataclass

from fxopt.backends.tvm.tiling.amx import weights_stay
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import Tile

_BESIDE = 4
"""Tiles that get all their channels before the next ones, so that threads do not write parts of one cache line.

Four tiles of some positions each are enough rows of memory for that, and leave enough parallel iterations. Chosen, not
fitted; tuning does not vary it.
"""


@dataclass(frozen=True)
class Tiling:
    """A tile of accumulators: ``lines`` by ``rows`` positions by ``vectors`` of output channels.

    ``rows`` consist of registers of ``register`` positions where the instruction works on tile registers. ``chunk``
    neighbouring tiles get all their channels before the next ones; 0 if the loop over channels is outermost.
    """

    lines: int
    rows: int
    vectors: int
    unroll: int
    register: int = 0
    chunk: int = 0


def tiling_from(tile: Tile, geometry: Geometry) -> Tiling:
    """The tiling for a tile of the task."""
    if not geometry.in_tile_registers:
        chunk = 1 if geometry.depthwise else _BESIDE if weights_stay(geometry) else 0
        return Tiling(1, tile.rows, tile.vectors, tile.unroll, chunk=chunk)
    return Tiling(tile.lines or 1, tile.rows * tile.unroll, tile.vectors, 1, tile.rows, tile.chunk)
