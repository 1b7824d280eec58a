"""The range of everything seen."""

from __future__ import annotations

from fxopt.passes.quant.observers.affine import Format
from fxopt.passes.quant.observers.observer import Observer


class MinMax(Observer):
    """From the least value seen to the largest: nothing that calibration saw is clipped."""

    def bounds(self, form: Format) -> tuple[float, float]:
        """Everything seen, whatever the format."""
        return self.lowest, self.highest
