"""The range of the least squared error."""

from __future__ import annotations

import numpy as np

from fxopt.passes.quant.observers.affine import Affine, Format
from fxopt.passes.quant.observers.histogram import Array, Bins, Histogram
from fxopt.passes.quant.observers.search import minimise, smallest, voters

_TRIED = 32


class SquaredError(Histogram):
    """The range with the least mean squared error of quantization.

    Rounding inside the range and clipping beyond it are weighed against each other. Both ends are searched; where no
    value is negative, as after a relu, the range begins at zero.
    """

    def bounds(self, form: Format) -> tuple[float, float]:
        """The best range for the format, with zero in it."""
        bins = voters(self.bins(), form)
        if not len(bins.counts):
            return 0.0, 0.0
        least, low, high = smallest(bins), min(0.0, float(bins.left[0])), max(0.0, float(bins.right[-1]))

        def cost(low: float, high: float) -> float:
            return squared_error(bins, Affine.over(low, high, form))

        both = minimise(lambda end: cost(max(low, -end), min(high, end)), least, max(-low, high), _TRIED)
        found_low, found_high = max(low, -both), min(high, both)
        if low < 0 < high:
            found_low = -minimise(lambda end: cost(-end, found_high), min(least, -low), -low, _TRIED)
            found_high = minimise(lambda end: cost(found_low, end), min(least, high), high, _TRIED)
        return found_low, found_high


def squared_error(bins: Bins, affine: Affine) -> float:
    """The mean of (x - dequantize(quantize(x)))² over the values in the bins, taken as evenly spread within each."""
    width = bins.right - bins.left
    wide = width > 0
    total = _integral(bins.right, affine) - _integral(bins.left, affine)
    mean = np.where(wide, total / np.where(wide, width, 1.0), _error(bins.left, affine) ** 2)
    return float((bins.counts * mean).sum() / bins.counts.sum())


def _error(x: Array, affine: Affine) -> Array:
    return x - np.clip(np.round(x / affine.scale) * affine.scale, *affine.range)


def _integral(x: Array, affine: Affine) -> Array:
    """The integral of the squared error from zero to ``x``: a twelfth for each whole step, and the cube of the rest."""
    inside = np.clip(x, *affine.range)
    steps = np.round(inside / affine.scale)
    rest, beyond = inside / affine.scale - steps, x - inside
    # a product takes a tenth of the time of a power
    return affine.scale**3 * (steps / 12 + rest * rest * rest / 3) + beyond * beyond * beyond / 3
