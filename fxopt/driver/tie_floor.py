"""The effect of ties rounded the other way on the outputs of a quantized program.

At a tie, kernels may round either way, and a deep network with random weights amplifies a single one: of a million and a half
quantized values, two rounded the other way leave 17 to 25 dB of a ShuffleNet. More cannot be required of an artifact of which
every value is right on its own inputs. Two things count: the codes that were found a step off, and ties that a kernel may round
otherwise only where nothing is exposed to compare. A drawn image can lie at ties of its scale in a quarter of its pixels;
rounded up they are a brighter image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxopt.driver.int8_check import ValueCheck, at_tie, in_steps
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.execute import replayed
from fxopt.numerics.float64_quant_ops import quantize_per_tensor

_DRAWS = 8
"""How often the values to change are drawn: the worst of these is the floor, as which ties differ is chance."""


def tie_floor(twin: Program, inputs: list[Any], checks: Sequence[ValueCheck]) -> float:
    """Least SQNR in dB of a program against itself with ties rounded otherwise; inf where nothing depends on them.

    That is with as many elements one step up and down as ``checks`` found, and with all ties of all values rounded up, and
    down. ``twin`` is the quantized program in float64, ``inputs`` are flat. Which elements are a step off is drawn at random
    from a fixed seed; in which direction is not, as a kernel that rounds halves up makes a bias, which does not average out.
    """
    counts = {check.value: (check.up, check.near + check.far - check.up) for check in checks if check.near + check.far}
    others: list[fx.Interpreter] = [_OneWay(twin, torch.ceil), _OneWay(twin, torch.floor)]
    others += [_OneStepOff(twin, counts, draw) for draw in range(_DRAWS if counts else 0)]
    want = replayed(fx.Interpreter(twin.module), twin, inputs)
    return min(sqnr(want, replayed(other, twin, inputs)) for other in others)


class _OneWay(fx.Interpreter):
    """Runs node by node, with what is at a tie, as far as float32 can tell, rounded by ``away``."""

    def __init__(self, twin: Program, away: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(twin.module)
        self._away = away

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        codes = super().call_function(target, args, kwargs)
        if target is not quantize_per_tensor:
            return codes
        x, scale, zero_point, low, high = args[:5]
        steps = in_steps(x, scale)
        rounded = (self._away(steps) + zero_point).clamp(low, high).to(codes.dtype)
        return torch.where(at_tie(steps, low, high), rounded, codes)


class _OneStepOff(fx.Interpreter):
    """Runs node by node, with as many elements of each quantize node, by name, a step up and a step down as ``counts`` has."""

    def __init__(self, twin: Program, counts: Mapping[str, tuple[int, int]], seed: int) -> None:
        super().__init__(twin.module)
        self._counts = counts
        self._draws = torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        codes = super().run_node(n)
        count = self._counts.get(n.name)
        if count is None:
            return codes
        low, high = n.args[3:5]
        up, down = count
        where = torch.randperm(codes.numel(), generator=self._draws)[: up + down]
        flat = codes.flatten().to(torch.int32)
        flat[where[:up]] += 1
        flat[where[up:]] -= 1
        return flat.clamp(low, high).to(codes.dtype).view(codes.shape)
