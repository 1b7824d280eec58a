"""A range that leaves out the most extreme values."""

from __future__ import annotations

from fxopt.passes.quant.observers.affine import Format
from fxopt.passes.quant.observers.histogram import Histogram

_CUT = 1e-4


class Percentile(Histogram):
    """From the 0.01th to the 99.99th percentile of all values seen (Wu et al. 2020, "Integer quantization").

    At each end one value in 10 000 is left out, and one at least. To within a bin of the histogram, 1/128 of a value.
    """

    def bounds(self, form: Format) -> tuple[float, float]:
        """The two percentiles, whatever the format."""
        kept = self.bins().without(_CUT)
        return float(kept.left[0]), float(kept.right[-1])
