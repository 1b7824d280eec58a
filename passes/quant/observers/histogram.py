"""A streaming histogram of float32 numbers with fixed bins, fine around every magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fxopt.passes.quant.observers.observer import Observer

Array = np.ndarray[Any, np.dtype[Any]]

ZERO = float(np.finfo(np.float32).tiny)
"""A search for a range takes values up to this magnitude, subnormal ones among them, for zeros."""

_BINS = 2**16
_PART = 2**18
"""Values counted at a time, so that intermediate results stay in the cache."""


@dataclass(frozen=True)
class Bins:
    """Bins in ascending order without overlap: edges float64 ``left`` <= ``right``, and how many numbers lie between.

    A bin of no width is one number.
    """

    left: Array
    right: Array
    counts: Array

    @property
    def magnitude(self) -> Array:
        """The largest distance from zero in each bin."""
        return np.maximum(np.abs(self.left), np.abs(self.right))

    def where(self, chosen: Array) -> Bins:
        """Only the bins of a mask."""
        return Bins(self.left[chosen], self.right[chosen], self.counts[chosen])

    def without(self, share: float) -> Bins:
        """Without the most extreme values: this share of all at each end, one at least; the bins at the ends shrink.

        Within a bin values are taken as evenly spread. None is left out where only zeros would stay.
        """
        total = int(self.counts.sum())
        cut = max(1, int(total * share))
        after = np.cumsum(self.counts)
        before = after - self.counts
        width = self.right - self.left
        kept_from, kept_to = (np.clip(rank, cut, max(cut, total - cut)) for rank in (before, after))
        left = self.left + width * (kept_from - before) / self.counts
        right = self.right - width * (after - kept_to) / self.counts
        kept = Bins(left, right, kept_to - kept_from).where(kept_to > kept_from)
        return kept if (kept.magnitude > ZERO).any() else self


class Histogram(Observer):
    """Counts numbers by the upper 16 bits of their float32 form: sign, exponent and 7 bits of the mantissa.

    So each factor of two in magnitude has 128 bins of equal width, for every magnitude that float32 has, with either
    sign. The bins are fixed: no range has to be known or guessed, one outlier of 1e30 does not affect the others, and
    counts are exact in whatever order and batches the values come. 65536 counts of 64 bits, most of them never touched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = np.zeros(_BINS, np.int64)  # in ascending order of the bit patterns as int16; memory once touched

    def take(self, value: torch.Tensor, low: float, high: float) -> None:
        """Count every number."""
        found = np.zeros(_BINS, np.int64)
        for part in value.flatten().view(torch.int32).split(_PART):
            upper = (part >> 16).add_(_BINS // 2)
            found += torch.bincount(upper, minlength=_BINS).cpu().numpy()
        used = np.flatnonzero(found)
        self.counts[used] += found[used]

    def bins(self) -> Bins:
        """The nonempty bins, cut at the least and the largest value seen."""
        used = np.flatnonzero(self.counts)
        pattern = (used - _BINS // 2).astype(np.int16)
        magnitude = pattern.astype(np.int64) & 0x7FFF
        near, far = _number(magnitude), _number(magnitude + 1)
        left, right = np.where(pattern < 0, -far, near), np.where(pattern < 0, -near, far)
        left, right = (np.clip(edge, self.lowest, self.highest) for edge in (left, right))
        order = np.lexsort((right, left))  # bit patterns of negative numbers ascend with their magnitude
        return Bins(left[order], right[order], self.counts[used][order])


def _number(upper: Array) -> Array:
    """The float32 with these upper 16 bits and no others, as float64."""
    return (upper.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
