"""AdaRound: learn for each weight whether it is rounded down or up, so that the layer keeps its float output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fxopt.ir.transfer import put, summable

_GAMMA, _ZETA = -0.1, 1.1
_ITERATIONS, _FREE = 500, 0.2
_BATCH, _RATE = 128, 3e-2
_PRESSURE, _BETA = 20.0, (20.0, 2.0)


@dataclass(frozen=True)
class Rows:
    """Samples of a layer's input and target output.

    ``x`` float32 ``[groups, rows, in]`` is the input of the quantized layer, ``wanted`` float32 ``[groups, rows, out]`` the
    output of the float layer after its activation, ``bias`` float32 ``[groups, 1, out]``. ``activation`` is a clamp.
    """

    x: torch.Tensor
    wanted: torch.Tensor
    bias: torch.Tensor
    activation: Callable[[torch.Tensor], torch.Tensor]

    def part(self, rows: slice | torch.Tensor) -> Rows:
        """Some of the rows."""
        return Rows(self.x[:, rows], self.wanted[:, rows], self.bias, self.activation)

    def difference(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output minus target ``[groups, rows, out]`` with a weight ``[groups, out, in]``, and where the clamp is inactive."""
        plain = self.bias + self.x @ weight.mT
        given = self.activation(plain)
        return given - self.wanted, given == plain

    def error(self, weight: torch.Tensor) -> torch.Tensor:
        """Mean square of the difference over the rows, ``[groups, out]``."""
        return self.difference(weight)[0].square().mean(1)


def learn_rounding(
    weight: torch.Tensor, scales: torch.Tensor, limits: tuple[int, int], rows: Rows, generator: torch.Generator
) -> torch.Tensor:
    """``weight`` ``[groups, out, in]`` as integers, in float32, at ``scales`` ``[groups, out, 1]``, each rounded down or up.

    Minimises, by Adam over V on random rows, ‖f(Wx) - f(W̃x̃)‖² + λ·Σ(1 - |2h(V) - 1|^β), W̃ = s·(⌊W/s⌋ + h(V)), with the
    rectified sigmoid h = clip(1.2·σ(V) - 0.1, 0, 1) (Nagel et al. 2020, "Up or Down?", eq. 21 to 25). The second term
    starts after a fifth of the steps, and β falls from 20 to 2, so that h ends at 0 or 1. Output channels are independent
    problems, and the error of each is relative to that of nearest rounding, so that one λ fits all layers, scales
    and bits. A weight that the rows do not determine is rounded to nearest.
    """
    exact = summable(weight).double() / summable(scales).double()
    low = exact.floor().clamp(*limits)
    step = ((low + 1).clamp(*limits) - low).float()
    step, low, part = put((step, low.float(), (exact - low).float()), weight.device)
    nearest = rows.error((low + step * (part >= 0.5)) * scales)[..., None]
    share = torch.where(nearest > 0, weight.shape[-1] / nearest, 0.0) * (2 / _BATCH)
    v = torch.logit((part.clamp(0, 1) - _GAMMA) / (_ZETA - _GAMMA))
    adam = torch.optim.Adam([v], lr=_RATE, fused=True)
    for i in range(_ITERATIONS):
        sigmoid = v.sigmoid()
        h = (sigmoid * (_ZETA - _GAMMA) + _GAMMA).clamp_(0, 1)
        drawn = torch.randint(rows.x.shape[1], (_BATCH,), generator=generator)
        some = rows.part(put(drawn, weight.device))
        difference, opened = some.difference((low + step * h) * scales)
        slope = ((difference * opened).mT @ some.x) * (share * scales) * step
        if i >= _FREE * _ITERATIONS:
            progress = (i / _ITERATIONS - _FREE) / (1 - _FREE)
            beta = _BETA[0] + progress * (_BETA[1] - _BETA[0])
            side = 2 * h - 1
            slope -= _PRESSURE * 2 * beta * side.sign() * side.abs().pow(beta - 1)
        v.grad = slope * sigmoid * (1 - sigmoid) * ((h > 0) & (h < 1))
        adam.step()
    return low + step * (v.sigmoid() >= 0.5)
