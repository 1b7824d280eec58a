"""The tiles that integer sums are cut into: chosen for a vector instruction as those of float are, by price for AMX."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fxopt.backends.tvm.integers.geometry import Geometry
from fxopt.backends.tvm.tasks import Choices, Task, Tile

_ROWS = 16
"""Rows of a tile register."""


@dataclass(frozen=True)
class Tiling:
    """A tile of sums: ``lines`` by ``rows`` positions by ``vectors`` of output channels.

    ``rows`` are made of registers of ``register`` positions where the instruction is one on tiles.
    """

    lines: int
    rows: int
    vectors: int
    unroll: int
    register: int = 0


@dataclass(frozen=True)
class Alone:
    """The sums of a geometry by themselves, of one example, for tuning to time."""

    geometry: Geometry

    def tensors(self, tile: Tile) -> list[Any]:
        """Codes, a packed weight, and their sums."""
        from tvm import te

        from fxopt.backends.tvm.integers.contraction import convolve
        from fxopt.backends.tvm.integers.packing import packed_shape

        geometry = dataclasses.replace(self.geometry, width=self.geometry.width or self.geometry.usual)
        tiling = _of(tile)
        shape = (1, geometry.height, geometry.width, geometry.held)
        data = te.placeholder(shape, geometry.instruction.stored[0])
        weight = te.placeholder(packed_shape(geometry, tiling), "int8")
        return [data, weight, convolve(geometry, tiling, 0, data, weight)]


def tiling_of(geometry: Geometry, choices: Choices) -> Tiling:
    """The tile to take."""
    if geometry.instruction.kind == "amx" and not geometry.depthwise:
        return _in_registers(geometry)
    grouped, steps = geometry.groups > 1 and not geometry.depthwise, 1 if geometry.depthwise else geometry.steps
    vectors = geometry.vectors // geometry.groups if grouped else geometry.vectors
    alone, shared = Alone(geometry), not geometry.depthwise
    task = Task(geometry.key(), geometry.columns(), vectors, steps, shared=shared, grouped=grouped, kernel=alone)
    return _of(choices(task))


def _of(tile: Tile) -> Tiling:
    return Tiling(1, tile.rows, tile.vectors, tile.unroll)


def _in_registers(geometry: Geometry) -> Tiling:
    """Up to two by two registers of sums, of a height that wastes least."""
    vectors = geometry.vectors // geometry.groups if geometry.groups > 1 else geometry.vectors
    wide = geometry.columns()
    found: list[tuple[float, Tiling]] = []
    for across in (1, 2) if vectors % 2 == 0 else (1,):
        for lines, down in ((1, 1), (1, 2), (2, 1)):
            if lines > geometry.out_size[0]:
                continue
            for register in range(min(_ROWS, max(1, wide)), 0, -1):
                tiles = -(-wide // (register * down)) * -(-geometry.out_size[0] // lines)
                count = lines * down
                products = count * across * max(register, 8)
                loads = 20 * across + (register // 2 + 2) * count
                price = tiles * -(-vectors // across) * (max(products, loads) + 0.2 * min(products, loads))
                found.append((price, Tiling(lines, register * down, across, 1, register)))
    return min(found, key=lambda pair: pair[0])[1]
