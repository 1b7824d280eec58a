"""The kernel of one int8 contraction and the tiles it may have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.ops.affine_value import AffineValue, BufferLayout, QuantParams
from fxopt.backends.tvm.ops.requantize import quantize
from fxopt.backends.tvm.tiling.amx import amx_tiles
from fxopt.backends.tvm.tiling.int8 import Tiling, tiling_from
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import CYCLES, Choices, Task, Tile

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import TensorExpr


@dataclass(frozen=True)
class StandaloneKernel:
    """The contraction of one example, requantized, as a kernel of its own that tuning times."""

    geometry: Geometry

    def tensors(self, tile: Tile) -> list[TensorExpr]:
        """Quantized input, packed weight, factors and biases of channels, and requantized output."""
        from tvm import te

        from fxopt.backends.tvm.ops.int8_contraction import convolve, multiply
        from fxopt.backends.tvm.ops.int8_packing import packed_shape

        geometry = dataclasses.replace(self.geometry, width=self.geometry.width or self.geometry.size_hint)
        tiling, of = tiling_from(tile, geometry), geometry.windows_of or geometry
        size, lead = (1, of.height, of.width, of.padded_channels), (geometry.batch,) if geometry.batch else ()
        data = te.placeholder((*lead, *size[2:]) if lead else size, geometry.instruction.stored[0])
        weight = te.placeholder((*lead, *packed_shape(geometry, tiling)), "int8")
        sums = multiply(geometry, tiling, data, weight) if lead else convolve(geometry, tiling, 0, data, weight)
        each, dtype = np.ones(1, np.float32), geometry.instruction.stored[0]
        layout = BufferLayout(tuple(sums.shape), geometry.outputs, nhwc=True)
        value = AffineValue(layout, ((sums, each),), each)
        params = QuantParams(1.0, 0, *((0, 255) if dtype == "uint8" else (-128, 127)), dtype, dtype)
        factor, bias = (te.placeholder((sums.shape[-1],), "float32") for _ in range(2))
        return [data, weight, factor, bias, quantize(value, params)[0](sums, factor, bias)]


def tiling_of(geometry: Geometry, choices: Choices) -> Tiling:
    """The tile to take."""
    grouped, steps = geometry.groups > 1 and not geometry.depthwise, 1 if geometry.depthwise else geometry.steps
    vectors = geometry.vectors // geometry.groups if grouped else geometry.vectors
    tiles = amx_tiles(geometry, vectors) if geometry.in_tile_registers else {}
    task = Task(
        geometry.key(), geometry.columns(), vectors, steps, shared=not geometry.depthwise, grouped=grouped,
        temporaries=0 if geometry.depthwise else geometry.instruction.temporaries, kernel=StandaloneKernel(geometry),
        work=geometry.work, offered=tuple(tiles), offered_costs=tuple(cycles / CYCLES for cycles in tiles.values()),
    )  # fmt: skip
    return tiling_from(choices(task), geometry)
