"""The range that preserves the distribution of values best."""

from __future__ import annotations

import math

import numpy as np

from fxopt.passes.quant.observers.affine import Affine, Format
from fxopt.passes.quant.observers.histogram import Bins, Histogram
from fxopt.passes.quant.observers.search import minimise, smallest, voters

_TRIED = 64


class Entropy(Histogram):
    """The range with the least Kullback-Leibler divergence of the quantized values from the values (Migacz 2017).

    One threshold is searched, and values beyond it are clipped on either side; the range ends where the values do if
    that is nearer, so after a relu it begins at zero. Zeros, which are always exact, are left out.
    """

    def bounds(self, form: Format) -> tuple[float, float]:
        """The best range for the format, with zero in it."""
        bins = voters(self.bins(), form)
        if not len(bins.counts):
            return 0.0, 0.0
        low, high = min(0.0, float(bins.left[0])), max(0.0, float(bins.right[-1]))

        def cost(end: float) -> float:
            return divergence(bins, Affine.over(max(low, -end), min(high, end), form))

        threshold = minimise(cost, smallest(bins), max(-low, high), _TRIED)
        return max(low, -threshold), min(high, threshold)


def divergence(bins: Bins, affine: Affine) -> float:
    """KL(P‖Q) in nats, where P are the values clipped to the range and Q those inside it, quantized.

    As in Migacz 2017: clipped values count in P's last bin, and not in Q; the mass of an integer is spread over its
    nonempty bins, here by width. Infinite for an empty range.
    """
    centre = (bins.left + bins.right) / 2
    low, high = affine.range
    inside = np.flatnonzero((centre >= low - affine.scale / 2) & (centre <= high + affine.scale / 2))
    if not len(inside):
        return math.inf
    kept = bins.counts[inside].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += bins.counts[: inside[0]].sum()
    clipped[-1] += bins.counts[inside[-1] + 1 :].sum()
    width = np.maximum((bins.right - bins.left)[inside], np.abs(centre[inside]) / 256)  # also of those cut at the ends
    code = np.round(centre[inside] / affine.scale).astype(np.int64)
    code -= code.min()
    spread = (np.bincount(code, kept) / np.maximum(np.bincount(code, width), np.finfo(np.float64).tiny))[code] * width
    return float((clipped / clipped.sum() * np.log(clipped / clipped.sum() / (spread / kept.sum()))).sum())
