"""The search for a range: which values count, and which ranges are tried."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fxopt.passes.quant.observers.affine import Format
from fxopt.passes.quant.observers.histogram import ZERO, Bins

_OUTLIERS = 1e-6
_REFINED = 12


def voters(bins: Bins, form: Format) -> Bins:
    """The values that decide on a range: all except the most extreme and the smallest.

    One in a million at each end, and one at least, is left out: a single 1e30 would outweigh everything else. So are zeros
    and values that become zero in every range that is tried, as their cost is the same for all.
    """
    bins = bins.without(_OUTLIERS)
    first, last = form.limits
    return bins.where(bins.magnitude > max(ZERO, smallest(bins) / (4 * (last - first))))


def smallest(bins: Bins) -> float:
    """The smallest magnitude that a range is tried for: the median of the magnitudes that are not zero."""
    order = np.argsort(bins.magnitude)
    order = order[bins.magnitude[order] > ZERO]
    if not len(order):
        return 0.0
    counts = np.cumsum(bins.counts[order])
    return float(bins.magnitude[order][np.searchsorted(counts, counts[-1] / 2)])


def minimise(cost: Callable[[float], float], low: float, high: float, tried: int) -> float:
    """The number from ``low`` to ``high``, both above zero, where ``cost`` is least, to a few percent of the cost.

    A geometric grid of ``tried`` numbers first, then finer and finer ones between the neighbours of the best; of equals the
    largest is taken. The more jagged the cost is, the more have to be tried.
    """
    best = high
    for count in (tried, _REFINED, _REFINED):
        if low >= high:
            break
        numbers = np.geomspace(high, low, count)
        found = int(np.argmin([cost(float(number)) for number in numbers]))
        best = float(numbers[found])
        high, low = float(numbers[max(0, found - 1)]), float(numbers[min(count - 1, found + 1)])
    return best
