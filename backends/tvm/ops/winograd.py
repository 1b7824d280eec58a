"""3x3 convolutions by Winograd's algorithm: tiles of outputs with fewer multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), eq. 5 and 8: for tiles of m x m outputs,

    Y = Aᵀ [ Σ_c (G g Gᵀ) ⊙ (Bᵀ d B) ] A

with d a tile of (m + 2)² inputs and g a window. The brackets hold (m + 2)² matrix products, of [positions, channels] by
[channels, outputs], with (m + 2)² multiplications in place of 9 m² for each pair of channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from fxopt.backends.tvm.ops import matmul
from fxopt.backends.tvm.ops.matmul import Matmul
from fxopt.backends.tvm.tiling.task import Tile, WinogradOption, round_up

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Element, Scalar, TensorExpr

COLUMNS, INPUT, LINES, SQUARES = "winograd_columns", "winograd_input", "winograd_lines", "winograd_squares"
"""Names of the blocks: Bᵀ d, its product with B, Aᵀ M, and that with A."""
STRIP = "fxopt.winograd"
"""Annotation of the output block: rows of a strip, and the side of a square."""
_WINDOW = 3
_BYTES, _CACHED, _STRIP = 4, 2**20, 2**22
"""Bytes of a float, of weights that stay in the L2 cache (half of the 2 MB that a server core has), and of the transformed
values of a strip, which should stay in the last-level cache: 4 MB is a fair share of it among several cores."""
_TRANSFORM, _READ = 9.0, 8.0
"""Cost of transforming one vector, in multiply-adds of vectors, and bytes of weights read in the time of one such multiply-add
where they do not stay in the cache. Fitted by hand, so that the rule takes Winograd where it is faster; the timings are not on
record. To fit them again, tune models with 3x3 convolutions: the database then has the seconds of both ways for each task."""
_POINTS = (Fraction(0), Fraction(-1), Fraction(1), Fraction(1, 2), Fraction(-2))
"""Where polynomials are evaluated, besides infinity: those with the least error in float32 for 4 outputs.

Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks" (2020), table 1.
"""


@functools.cache
def matrices(outputs: int) -> tuple[Array, Array, Array]:
    """Aᵀ [m, m + 2], G [m + 2, 3] and Bᵀ [m + 2, m + 2] as fractions, by Toom and Cook's scheme."""
    size = outputs + _WINDOW - 1
    points = _POINTS[: size - 1]

    def row(length: int, point: Fraction) -> list[Fraction]:
        return [point**power for power in range(length)]

    def last(length: int) -> list[Fraction]:
        return [Fraction(int(i == length - 1)) for i in range(length)]

    scales = [math.prod(one - other for other in points if other != one) for one in points]
    taken = np.array([*(row(outputs, point) for point in points), last(outputs)], object).T
    windows = [[value / scale for value in row(_WINDOW, p)] for p, scale in zip(points, scales, strict=True)]
    inputs = [_coefficients([p for p in points if p != one], size) for one in points]
    return taken, np.array([*windows, last(_WINDOW)], object), np.array([*inputs, _coefficients(points, size)], object)


def _coefficients(roots: Sequence[Fraction], length: int) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, from the lowest power on."""
    found = [Fraction(1)]
    for root in roots:
        found = [high - root * low for high, low in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found + [Fraction(0)] * (length - len(found))


def pack_weight(weight: Array, lanes: int, tile: Tile) -> Array:
    """G g Gᵀ of a weight [out, in, 3, 3] as [m + 2, m + 2, vectors, in, lanes], padded with zeros to whole tiles."""
    g = matrices(tile.winograd)[1].astype(np.float64)
    made = np.einsum("ir,ocrs,js->ijco", g, weight.astype(np.float64), g).astype(np.float32)
    missing = [(0, 0), (0, 0), (0, -weight.shape[1] % lanes), (0, -len(weight) % (lanes * tile.vectors))]
    made = np.pad(made, missing)
    return np.ascontiguousarray(made.reshape(*made.shape[:3], -1, lanes).transpose(0, 1, 3, 2, 4))


def tasks(inputs: int, outputs: int, out_size: tuple[int, int], lanes: int) -> tuple[WinogradOption, ...]:
    """The matrix products of a convolution with squares of 2 and of 4, and the cost of the rest."""
    found = []
    for side in (2, 4):
        size, squares = side + _WINDOW - 1, math.prod(-(-extent // side) for extent in out_size)
        of = Matmul(squares, round_up(inputs, lanes), round_up(outputs, lanes), lanes, size**2)
        vectors = round_up(inputs, lanes) // lanes + round_up(outputs, lanes) // lanes
        one = of.depth * of.columns * _BYTES
        weights = size**2 * one
        beside = size**2 * squares * vectors * _TRANSFORM + (weights / _READ if weights > _CACHED else 0.0)
        found.append(WinogradOption(side, of.task(), beside, weights - _WINDOW**2 * one))
    return tuple(found)


def _lines(tile: Tile, out_size: tuple[int, int], channels: int) -> int:
    """Rows of squares in a strip: as many as fit the cache, in equal strips."""
    down, across = (-(-extent // tile.winograd) for extent in out_size)
    row = (tile.winograd + _WINDOW - 1) ** 2 * across * channels * _BYTES
    return -(-down // min(down, -(-down * row // _STRIP)))


def compute(
    tile: Tile, out_size: tuple[int, int], border: tuple[int, int], vectors: int, data: TensorExpr, weight: TensorExpr
) -> TensorExpr:
    """[n, vectors, H, W, lanes] of ``data`` [n, in vectors, ., ., lanes] and a packed weight.

    ``border``: rows of zeros above, and columns before. An image is computed in strips of rows of squares.
    """
    from tvm import te, tirx

    n, blocks, rows, columns, lanes = data.shape
    lanes, m, (high, wide) = int(lanes), tile.winograd, out_size
    size, (taken, _, inputs) = m + _WINDOW - 1, matrices(m)
    down, across = -(-high // m), -(-wide // m)
    lines = _lines(tile, out_size, (int(blocks) + vectors) * lanes)
    strips = -(-down // lines)
    squares = lines * across

    def pixel(strip: Scalar, square: Scalar, block: Scalar, r: int, column: Scalar, lane: Scalar) -> Scalar:
        y = (tirx.floormod(strip, strips) * lines + tirx.floordiv(square, across)) * m + r - border[0]
        x = tirx.floormod(square, across) * m + column - border[1]
        inside = tirx.all(y >= 0, y < rows, x >= 0, x < columns)
        value = data[tirx.floordiv(strip, strips), block, y, x, lane]
        return tirx.if_then_else(inside, value, tirx.const(0, "float32"))

    first = te.compute(
        (n * strips, squares, blocks, size, size, lanes),
        lambda t, p, block, i, x, lane: _combined(inputs, i, lambda r: pixel(t, p, block, r, x, lane)),
        name=COLUMNS,
    )
    turned = te.compute(
        (n * strips, size, size, squares, blocks * lanes),
        lambda t, i, j, p, k: _combined(inputs, j, lambda s: first[t, p, k // lanes, i, s, k % lanes]),
        name=INPUT,
    )
    sums = matmul.compute(tile, lanes, vectors * lanes, turned, weight)
    halves = te.compute(
        (n * strips, squares, vectors, m, size, lanes),
        lambda t, p, v, i, x, lane: _combined(taken, i, lambda r: sums[t, r, x, p, v * lanes + lane]),
        name=LINES,
    )
    made = te.compute(
        (n * strips, squares, vectors, m, m, lanes),
        lambda t, p, v, i, j, lane: _combined(taken, j, lambda s: halves[t, p, v, i, s, lane]),
        name=SQUARES,
    )

    def element(n: Scalar, v: Scalar, y: Scalar, x: Scalar, lane: Scalar) -> Scalar:
        strip = n * strips + tirx.floordiv(y, m * lines)
        square = tirx.floordiv(tirx.floormod(y, m * lines), m) * across + tirx.floordiv(x, m)
        return made[strip, square, v, tirx.floormod(y, m), tirx.floormod(x, m), lane]

    return te.compute((n, vectors, high, wide, lanes), element, name="convolved", attrs={STRIP: [m * lines, m]})


def _combined(matrix: Array, row: Scalar, term: Element) -> Scalar:
    """One row of a matrix times terms; which row is static once its loop is unrolled."""
    from tvm import tirx

    def combined(weights: Array) -> Scalar:
        found = None
        for i, weight in enumerate(weights):
            if weight:
                part = term(i) if weight == 1 else term(i) * tirx.const(float(weight), "float32")
                found = part if found is None else found + part
        return found

    found = combined(matrix[-1])
    for i in range(len(matrix) - 2, -1, -1):
        found = tirx.Select(row == i, combined(matrix[i]), found)
    return found
