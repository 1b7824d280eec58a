"""The tiles that integer sums are cut into: chosen for a vector instruction as those of float are, by price for AMX."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxopt.backends.tvm.integers.epilogue import rounded
from fxopt.backends.tvm.integers.geometry import Geometry
from fxopt.backends.tvm.integers.tile_registers import ROWS, Registers
from fxopt.backends.tvm.integers.values import Code, Place, Sum
from fxopt.backends.tvm.tasks import Choices, Task, Tile

_CACHED = 2**20
"""Bytes of weights that stay in the cache while positions pass by."""
_BESIDE = 4
"""Tiles of vectors that are given all their channels together, so that threads do not write parts of one cache line."""
_SHAPES = ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1), (2, 2))
"""Lines, and registers of a line, that sums are held for."""


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


@dataclass(frozen=True)
class Alone:
    """The sums of a geometry by themselves, of one example, rounded to codes, for tuning to time."""

    geometry: Geometry

    def tensors(self, tile: Tile) -> list[Any]:
        """Codes, a packed weight, factors and biases of channels, and codes of the sums."""
        from tvm import te

        from fxopt.backends.tvm.integers.contraction import convolve
        from fxopt.backends.tvm.integers.packing import packed_shape

        geometry = dataclasses.replace(self.geometry, width=self.geometry.width or self.geometry.usual)
        tiling, of = _of(tile, geometry), geometry.windows or geometry
        data = te.placeholder((1, of.height, of.width, of.held), geometry.instruction.stored[0])
        weight = te.placeholder(packed_shape(geometry, tiling), "int8")
        sums = convolve(geometry, tiling, 0, data, weight)
        each, dtype = np.ones(1, np.float32), geometry.instruction.stored[0]
        total = Sum(Place(tuple(sums.shape), geometry.outputs, image=True), ((sums, each),), each)
        code = Code(1.0, 0, *((0, 255) if dtype == "uint8" else (-128, 127)), dtype, dtype)
        factor, bias = (te.placeholder((sums.shape[-1],), "float32") for _ in range(2))
        return [data, weight, factor, bias, rounded(total, code)[0](sums, factor, bias)]


def gathers(geometry: Geometry) -> bool:
    """Whether to gather windows first: where that costs less than what rows of registers beyond short lines do."""
    if geometry.instruction.kind != "amx" or geometry.groups > 1 or geometry.width is None:
        return False
    flat = geometry.gathered()
    if geometry.height == 1 or flat.depth % flat.step:
        return False
    copied = (flat.width or 0) * flat.depth / 16
    return _least(flat) + 2 * copied < _least(geometry)


def tiling_of(geometry: Geometry, choices: Choices) -> Tiling:
    """The tile to take."""
    grouped, steps = geometry.groups > 1 and not geometry.depthwise, 1 if geometry.depthwise else geometry.steps
    vectors = geometry.vectors // geometry.groups if grouped else geometry.vectors
    task = Task(
        geometry.key(), geometry.columns(), vectors, steps, shared=not geometry.depthwise, grouped=grouped,
        kernel=Alone(geometry), offered=_offered(geometry, vectors) if _in_registers(geometry) else (),
    )  # fmt: skip
    return _of(choices(task), geometry)


def _in_registers(geometry: Geometry) -> bool:
    return geometry.instruction.kind == "amx" and not geometry.depthwise


def _of(tile: Tile, geometry: Geometry) -> Tiling:
    if not _in_registers(geometry):
        chunk = 1 if geometry.depthwise else _BESIDE if _weights(geometry) <= _CACHED else 0
        return Tiling(1, tile.rows, tile.vectors, tile.unroll, chunk=chunk)
    return Tiling(tile.lines or 1, tile.rows * tile.unroll, tile.vectors, 1, tile.rows, tile.chunk)


def _weights(geometry: Geometry) -> int:
    """Bytes of all weights."""
    columns = 1 if geometry.merged else geometry.kernel[1]
    return geometry.vectors * geometry.instruction.lanes * geometry.kernel[0] * columns * geometry.steps * geometry.step


def _least(geometry: Geometry) -> float:
    return min(_price(geometry, tile, geometry.vectors) for tile in _offered(geometry, geometry.vectors))


def _offered(geometry: Geometry, vectors: int) -> tuple[Tile, ...]:
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


def _price(geometry: Geometry, tile: Tile, vectors: int) -> float:
    """About how many cycles the sums take.

    An instruction takes a cycle for each row of positions or of weights, whichever are more; a row of 64 bytes is read in half
    a cycle, and one of weights that are not in the first cache in a whole one. To round a vector takes four cycles or more,
    most of which are beside the multiplications of the next tile.
    """
    lines, count = tile.lines or 1, (tile.lines or 1) * tile.unroll
    positions = -(-geometry.columns() // (tile.rows * tile.unroll)) * -(-geometry.out_size[0] // lines)
    steps = geometry.kernel[0] * (1 if geometry.merged else geometry.kernel[1]) * geometry.steps
    weights = geometry.step // 4
    far = steps * geometry.step * 16 * tile.vectors > 2**14
    reading = count * tile.rows / 2 + tile.vectors * weights * (1.0 if far else 0.5)
    multiplying = steps * max(count * tile.vectors * max(tile.rows, weights), reading)
    even = geometry.columns() % (tile.rows * tile.unroll) == 0 == geometry.out_size[0] % lines
    rounding = count * tile.vectors * tile.rows * {1: 6.0, 2: 4.0, 4: 5.5}[tile.vectors] * (1.0 if even else 1.3)
    moved = (positions - 1) * _weights(geometry) / 8 if tile.chunk and _weights(geometry) > _CACHED else 0.0
    apart = 0.0 if tile.chunk else 0.2  # of a line of the cache, threads write halves
    each = max(multiplying, rounding) + (0.3 + apart) * min(multiplying, rounding) + 60
    return positions * -(-vectors // tile.vectors) * each + moved
