"""2d convolutions in NCHWc, as tensor expressions.

A value of C channels is stored as [n, ceil(C / L), H, W, L] with L the lanes of the processor, so that one load takes L
channels of a position. Channels beyond C are padding: weights that read them are zero.
The result is computed in tiles: ``rows`` neighbouring columns by ``vectors`` of output channels, whose accumulators stay in
registers over the whole reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.ops import winograd
from fxopt.backends.tvm.ops.block_names import CHANNELS, PADDED, SUMS, TILE
from fxopt.backends.tvm.tiling.task import Task, Tile, WinogradOption, output_size, round_up

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Scalar, TensorExpr

_MOST_LINES = 16
"""Lines up to which tuning tries to pad an image in blocks of them; taller blocks would save next to nothing. Chosen."""


@dataclass(frozen=True)
class Convolution:
    """Sizes of a convolution. ``padding`` is top, left, bottom, right."""

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    size: tuple[int, int]
    lanes: int
    blocked_input: bool

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved apart from the others (depthwise)."""
        return self.groups == self.inputs == self.outputs and self.groups > 1

    @property
    def vectors(self) -> int:
        """Vectors of output channels."""
        return -(-self.outputs // self.lanes)

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        top, left, bottom, right = self.padding
        down, across = zip(self.kernel, self.stride, self.dilation, strict=True)
        return output_size(self.size[0], top + bottom, *down), output_size(self.size[1], left + right, *across)

    def task(self) -> Task:
        """The choice of a tile for this convolution."""
        sizes = f"{self.inputs}>{self.outputs} {self.size[0]}x{self.size[1]} k{self.kernel[0]}x{self.kernel[1]}"
        steps = f"s{self.stride} p{self.padding} d{self.dilation} g{self.groups}".replace(" ", "")
        key = f"conv2d {sizes} {steps} l{self.lanes} {'blocked' if self.blocked_input else 'plain'}"
        vectors = self.vectors // self.groups if self.groups > 1 and not self.depthwise else self.vectors
        inner = self.lanes if self.blocked_input and not self.depthwise else 1
        high, wide = self.out_size
        bordered = any(self.padding) and self.blocked_input
        lines = (0, *(n for n in range(2, _MOST_LINES + 1) if high % n == 0 and n < high)) if bordered else ()
        depth = 1 if self.depthwise else self.inputs // self.groups
        work = high * wide * self.vectors * depth * self.kernel[0] * self.kernel[1]
        return Task(
            key,
            wide,
            vectors,
            inner,
            not self.depthwise,
            self.groups > 1,
            lines,
            work,
            self._winograd_options(),
            kernel=self,
        )

    def _winograd_options(self) -> tuple[WinogradOption, ...]:
        fits = (self.kernel, self.stride, self.dilation) == ((3, 3), (1, 1), (1, 1)) and self.blocked_input
        if not fits or self.groups > 1:
            return ()
        return winograd.tasks(self.inputs, self.outputs, self.out_size, self.lanes)

    def tensors(self, tile: Tile) -> list[TensorExpr]:
        """One image, a packed weight, and their convolution."""
        from tvm import te

        lanes, (high, wide) = self.lanes, self.size
        weight = np.zeros((self.outputs, self.inputs // self.groups, *self.kernel), np.float32)
        blocks = -(-self.inputs // lanes)
        data = te.placeholder((1, blocks, high, wide, lanes) if self.blocked_input else (1, self.inputs, high, wide))
        packed = te.placeholder(pack_weight(weight, self, tile).shape)
        return [data, packed, compute(self, tile, data, packed)]


def merge_groups(weight: Array, inputs: int, groups: int, lanes: int) -> tuple[Array, int]:
    """A weight [out, in / groups, r, s] with groups merged (block-diagonal) until channels per group fill a vector.

    As few are merged as needed; all, where no number is enough. Multiplying by zeros costs less than not vectorizing.
    A single group, or a depthwise one, stays.
    """
    outputs = len(weight)
    if groups == 1 or groups == inputs == outputs:
        return weight, groups
    per_in, per_out = inputs // groups, outputs // groups
    fitting = (m for m in range(1, groups) if groups % m == 0 and m * per_in % lanes == 0 == m * per_out % lanes)
    joined = next(fitting, groups)
    wide = np.zeros((outputs, joined * per_in, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * per_out, (group + 1) * per_out)
        first = group % joined * per_in
        wide[rows, first : first + per_in] = weight[rows]
    return wide, groups // joined


def pack_weight(weight: Array, conv: Convolution, tile: Tile) -> Array:
    """Weight [out, in / groups, r, s] as the kernel reads it: output channels innermost, padded to whole tiles with zeros.

    [vectors, in vectors, r, s, in lanes, lanes], [vectors, in, r, s, lanes] for inputs that are not in vectors, and
    [vectors, r, s, lanes] for a depthwise convolution; for Winograd as :func:`winograd.pack_weight` has it.
    """
    lanes = conv.lanes
    if tile.winograd:
        return winograd.pack_weight(weight, lanes, tile)
    weight = np.pad(weight, [(0, -len(weight) % (lanes * tile.vectors)), (0, 0), (0, 0), (0, 0)])
    vectors, (_, inputs, r, s) = len(weight) // lanes, weight.shape
    if conv.depthwise:
        return np.ascontiguousarray(weight.reshape(vectors, lanes, r, s).transpose(0, 2, 3, 1))
    if not conv.blocked_input:
        return np.ascontiguousarray(weight.reshape(vectors, lanes, inputs, r, s).transpose(0, 2, 3, 4, 1))
    weight = np.pad(weight, [(0, 0), (0, -inputs % lanes), (0, 0), (0, 0)])
    parts = weight.reshape(vectors, lanes, weight.shape[1] // lanes, lanes, r, s)
    return np.ascontiguousarray(parts.transpose(0, 2, 4, 5, 3, 1))


def compute(conv: Convolution, tile: Tile, data: TensorExpr, weight: TensorExpr) -> TensorExpr:
    """The convolution as a tensor expression: [n, vectors, H, W, lanes] of ``data`` and a packed weight."""
    from tvm import te, tirx

    if tile.winograd:
        return winograd.compute(tile, conv.out_size, conv.padding[:2], conv.vectors, data, weight)
    high, wide = conv.out_size
    tiles = -(-wide // tile.rows)
    (r_step, s_step), (r_gap, s_gap) = conv.stride, conv.dilation
    source = _padded(conv, tiles * tile.rows, data)
    edge = source.shape[-2] - 1 if conv.blocked_input else source.shape[-1] - 1
    overhang = tiles * tile.rows != wide and source is data

    r = te.reduce_axis((0, conv.kernel[0]), "r")
    s = te.reduce_axis((0, conv.kernel[1]), "s")

    def column(xo: Scalar, xi: Scalar) -> Scalar:
        x = (xo * tile.rows + xi) * s_step + s * s_gap
        return tirx.min(x, edge) if overhang else x

    def row(y: Scalar) -> Scalar:
        return y * r_step + r * r_gap

    if conv.depthwise:
        channels, axes = "depthwise", [r, s]

        def term(n: Scalar, k: Scalar, y: Scalar, xo: Scalar, xi: Scalar, lane: Scalar) -> Scalar:
            return source[n, k, row(y), column(xo, xi), lane] * weight[k, r, s, lane]
    elif conv.blocked_input:
        blocks = weight.shape[1]
        per_group = conv.vectors // conv.groups
        co, ci = te.reduce_axis((0, blocks), "co"), te.reduce_axis((0, conv.lanes), "ci")
        channels, axes = "blocked", [co, r, s, ci]

        def term(n: Scalar, k: Scalar, y: Scalar, xo: Scalar, xi: Scalar, lane: Scalar) -> Scalar:
            first = tirx.floordiv(k, per_group) * blocks if conv.groups > 1 else 0
            return source[n, first + co, row(y), column(xo, xi), ci] * weight[k, co, r, s, ci, lane]
    else:
        c = te.reduce_axis((0, conv.inputs), "c")
        channels, axes = "plain", [c, r, s]

        def term(n: Scalar, k: Scalar, y: Scalar, xo: Scalar, xi: Scalar, lane: Scalar) -> Scalar:
            return source[n, c, row(y), column(xo, xi)] * weight[k, c, r, s, lane]

    sums = te.compute(
        (data.shape[0], round_up(conv.vectors, tile.vectors), high, tiles, tile.rows, conv.lanes),
        lambda *at: te.sum(term(*at), axis=axes),
        name=SUMS,
        attrs={TILE: tile.to_list(), CHANNELS: channels},
    )
    return te.compute(
        (data.shape[0], conv.vectors, high, wide, conv.lanes),
        lambda n, k, y, x, lane: sums[n, k, y, tirx.floordiv(x, tile.rows), tirx.floormod(x, tile.rows), lane],
        name="convolved",
    )


def _padded(conv: Convolution, columns: int, data: TensorExpr) -> TensorExpr:
    """The input padded with zeros, wide enough for tiles that overhang; itself where there is no padding."""
    if not any(conv.padding):
        return data
    from tvm import te, tirx

    top, left, bottom, _ = conv.padding
    high, wide = conv.size
    all_wide = (columns - 1) * conv.stride[1] + (conv.kernel[1] - 1) * conv.dilation[1] + 1

    def inside(n: Scalar, c: Scalar, y: Scalar, x: Scalar, *lane: Scalar) -> Scalar:
        within = tirx.all(y >= top, y < top + high, x >= left, x < left + wide)
        return tirx.if_then_else(within, data[(n, c, y - top, x - left, *lane)], tirx.const(0, "float32"))

    shape = (*data.shape[:2], high + top + bottom, max(all_wide, wide + left), *data.shape[4:])
    return te.compute(shape, inside, name=PADDED)
