"""The effect of quantized values one step off on the outputs of a quantized program.

At a tie, kernels may round either way, and a deep network with random weights amplifies a single one: of a million and a half
quantized values, two rounded the other way leave 17 to 25 dB of a ShuffleNet. More cannot be required of an artifact of which
every value is right on its own inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxopt.driver.int8_check import ValueCheck
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.execute import replayed

_DRAWS = 8
"""How often the values to change are drawn: the worst of these is the floor, as which ties differ is chance."""


def tie_floor(twin: Program, inputs: list[Any], checks: Sequence[ValueCheck]) -> float:
    """Least SQNR in dB of a program against itself with as many elements one step off as ``checks`` found; inf for none.

    ``twin`` is the quantized program in float64, ``inputs`` are flat. Which elements of a value change, and in which
    direction, is drawn at random from a fixed seed.
    """
    counts = {check.value: check.near + check.far for check in checks if check.near + check.far}
    if not counts:
        return float("inf")
    want = replayed(fx.Interpreter(twin.module), twin, inputs)
    return min(sqnr(want, replayed(_OneStepOff(twin, counts, draw), twin, inputs)) for draw in range(_DRAWS))


class _OneStepOff(fx.Interpreter):
    """Runs node by node, with ``counts`` elements of each quantize node, by name, changed by a step."""

    def __init__(self, twin: Program, counts: Mapping[str, int], seed: int) -> None:
        super().__init__(twin.module)
        self._counts = counts
        self._draws = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        codes = super().run_node(n)
        count = self._counts.get(n.name)
        if count is None:
            return codes
        low, high = n.args[3:5]
        where = torch.randperm(codes.numel(), generator=self._draws)[:count]
        flat = codes.flatten().to(torch.int32)
        flat[where] += torch.randint(0, 2, (len(where),), generator=self._draws, dtype=torch.int32) * 2 - 1
        return flat.clamp(low, high).to(codes.dtype).view(codes.shape)
