"""The tiles that integer sums are cut into: chosen for a vector instruction as those of float are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxopt.backends.tvm.integers.amx_tiles import offered, weights_stay
from fxopt.backends.tvm.integers.epilogue import rounded
from fxopt.backends.tvm.integers.geometry import Geometry
from fxopt.backends.tvm.integers.values import Code, Place, Sum
from fxopt.backends.tvm.tasks import Choices, Task, Tile

_BESIDE = 4
"""Tiles of vectors that are given all their channels together, so that threads do not write parts of one cache line."""


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

        from fxopt.backends.tvm.integers.contraction import convolve, multiply
        from fxopt.backends.tvm.integers.packing import packed_shape

        geometry = dataclasses.replace(self.geometry, width=self.geometry.width or self.geometry.usual)
        tiling, of = _of(tile, geometry), geometry.windows or geometry
        size, lead = (1, of.height, of.width, of.held), (geometry.pairs,) if geometry.pairs else ()
        data = te.placeholder((*lead, *size[2:]) if lead else size, geometry.instruction.stored[0])
        weight = te.placeholder((*lead, *packed_shape(geometry, tiling)), "int8")
        sums = multiply(geometry, tiling, data, weight) if lead else convolve(geometry, tiling, 0, data, weight)
        each, dtype = np.ones(1, np.float32), geometry.instruction.stored[0]
        total = Sum(Place(tuple(sums.shape), geometry.outputs, image=True), ((sums, each),), each)
        code = Code(1.0, 0, *((0, 255) if dtype == "uint8" else (-128, 127)), dtype, dtype)
        factor, bias = (te.placeholder((sums.shape[-1],), "float32") for _ in range(2))
        return [data, weight, factor, bias, rounded(total, code)[0](sums, factor, bias)]


def tiling_of(geometry: Geometry, choices: Choices) -> Tiling:
    """The tile to take."""
    grouped, steps = geometry.groups > 1 and not geometry.depthwise, 1 if geometry.depthwise else geometry.steps
    vectors = geometry.vectors // geometry.groups if grouped else geometry.vectors
    task = Task(
        geometry.key(), geometry.columns(), vectors, steps, shared=not geometry.depthwise, grouped=grouped,
        kernel=Alone(geometry), offered=offered(geometry, vectors) if geometry.in_tile_registers else (),
    )  # fmt: skip
    return _of(choices(task), geometry)


def _of(tile: Tile, geometry: Geometry) -> Tiling:
    if not geometry.in_tile_registers:
        chunk = 1 if geometry.depthwise else _BESIDE if weights_stay(geometry) else 0
        return Tiling(1, tile.rows, tile.vectors, tile.unroll, chunk=chunk)
    return Tiling(tile.lines or 1, tile.rows * tile.unroll, tile.vectors, 1, tile.rows, tile.chunk)
