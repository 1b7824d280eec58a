"""Weights, and computed right operands, packed for the integer kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.ops import conv2d
from fxopt.backends.tvm.ops.block_names import PACKED
from fxopt.backends.tvm.tiling.int8 import Tiling
from fxopt.backends.tvm.tiling.int8_geometry import Geometry
from fxopt.backends.tvm.tiling.task import round_up

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Scalar, TensorExpr

_ONE_GROUP = 4
"""Channels that one instruction multiplies in each lane: up to so many depthwise ones cost no more as a dense convolution."""


def merge_groups(weight: Array, inputs: int, groups: int, lanes: int) -> tuple[Array, int]:
    """A weight [out, in / groups, r, s] whose groups are whole vectors; depthwise ones of few channels become one group."""
    outputs = len(weight)
    if groups > 1 and groups == inputs == outputs and inputs <= _ONE_GROUP:
        wide = np.zeros((outputs, inputs, *weight.shape[2:]), weight.dtype)
        wide[np.arange(outputs), np.arange(inputs)] = weight[:, 0]
        return wide, 1
    return conv2d.merge_groups(weight, inputs, groups, lanes)


def packed_shape(geometry: Geometry, tiling: Tiling) -> tuple[int, ...]:
    """[vectors, r, s, steps, step / group, lanes, group]; s is 1 where a line of a window is one row of bytes.

    For a depthwise weight, [vectors, r, s, lanes].
    """
    (r, s), lanes, group = geometry.kernel, geometry.instruction.lanes, geometry.instruction.group
    vectors = round_up(geometry.vectors, tiling.vectors)
    if geometry.depthwise:
        return vectors, r, s, lanes
    return vectors, r, geometry.columns_apart, geometry.steps, geometry.step // group, lanes, group


def pack(weight: Array, geometry: Geometry, tiling: Tiling) -> Array:
    """A weight [out, in / groups, r, s] of int8 in its packed shape, padded with zeros to whole tiles."""
    if geometry.windows_of is not None:
        beyond = geometry.windows_of.padded_channels - weight.shape[1]
        windows = np.pad(weight, [(0, 0), (0, beyond), (0, 0), (0, 0)]).transpose(0, 2, 3, 1)
        weight = windows.reshape(len(weight), -1, 1, 1)
    lanes, group = geometry.instruction.lanes, geometry.instruction.group
    weight = np.pad(weight, [(0, round_up(len(weight), lanes * tiling.vectors) - len(weight)), (0, 0), (0, 0), (0, 0)])
    vectors, (_, inputs, r, s) = len(weight) // lanes, weight.shape
    if geometry.depthwise:
        return np.ascontiguousarray(weight.reshape(vectors, lanes, r, s).transpose(0, 2, 3, 1))
    channels = geometry.per_group if geometry.groups > 1 else geometry.padded_channels
    lines = np.pad(weight, [(0, 0), (0, channels - inputs), (0, 0), (0, 0)]).transpose(0, 2, 3, 1)
    if geometry.merged:
        lines = lines.reshape(len(weight), r, 1, s * channels)
    depth = geometry.steps * geometry.step
    lines = np.pad(lines, [(0, 0), (0, 0), (0, 0), (0, depth - lines.shape[-1])])
    parts = lines.reshape(vectors, lanes, r, lines.shape[2], geometry.steps, geometry.step // group, group)
    return np.ascontiguousarray(parts.transpose(0, 2, 3, 4, 5, 1, 6))


def pack_quantized(geometry: Geometry, tiling: Tiling, right: TensorExpr, shift: int, *, swapped: bool) -> TensorExpr:
    """Quantized values [n, depth, columns], or [n, columns, depth] if ``swapped``, less ``shift``, packed for each of n.

    It is padded with zeros to whole tiles.
    """
    from tvm import te, tirx

    def element(*at: Scalar) -> Scalar:
        n, vector, _, _, step, part, lane, inner = at
        k = step * geometry.step + part * geometry.instruction.group + inner
        column = vector * geometry.instruction.lanes + lane
        value = right[(n, column, k) if swapped else (n, k, column)]
        value = (value.astype("int32") - shift).astype("int8")
        return tirx.if_then_else(tirx.all(k < geometry.depth, column < geometry.outputs), value, tirx.const(0, "int8"))

    return te.compute((right.shape[0], *packed_shape(geometry, tiling)), element, name=PACKED)
