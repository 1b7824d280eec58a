"""A histogram as a line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(counts: Sequence[int], width: int) -> str:
    """``counts`` in ``width`` bars, by the root of each sum, so that few show beside many; a space where there is none."""
    sums = [0] * width
    for i, count in enumerate(counts):
        sums[i * width // len(counts)] += count
    most = max(sums, default=0) or 1
    return "".join(_BARS[math.ceil(len(_BARS) * math.sqrt(s / most)) - 1] if s else " " for s in sums)
