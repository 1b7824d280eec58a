"""Zeros that training keeps: those of the start, and more of them step by step under gradual pruning."""

from __future__ import annotations

import torch

from fxopt.ir.program import Program
from fxopt.ir.transfer import put
from fxopt.passes.common.lowest import lowest
from fxopt.passes.common.masks import cubic_sparsity, masks
from fxopt.passes.common.stored_weights import layer_weights
from fxopt.passes.train.options import TrainOptions

_END = 0.75
"""Share of all steps after which no more weights are zeroed: the rest of the training recovers."""
_TIMES = 50
"""How often weights are chosen anew on the way."""


class Zeros:
    """Masks over the parameters of a module made of ``program``, applied after each step of the optimizer."""

    def __init__(self, program: Program, module: torch.nn.Module, how: TrainOptions, steps: int) -> None:
        parameters = dict(module.named_parameters(remove_duplicate=False))
        found = {name: ~keep for name, keep in masks(program).items() if name in parameters}
        self._zero = {name: put(zero, parameters[name].device) for name, zero in found.items()}
        self._parameters = parameters
        self._final, self._steps = how.sparsity, steps
        self._weights = [w.names[0] for w in layer_weights(program)[0] if w.names[0] in parameters and not w.quantized]
        total = sum(parameters[name].numel() for name in self._weights)
        gone = sum(int(self._zero[name].sum()) for name in self._weights if name in self._zero)
        self._initial = gone / total if total else 0.0

    def keep(self, step: int) -> None:
        """Zero the masked weights in place, and at some steps choose more of them."""
        with torch.no_grad():
            if self._final is not None and step % max(1, int(_END * self._steps / _TIMES)) == 0:
                self._choose(step)
            for name, zero in self._zero.items():
                self._parameters[name].masked_fill_(zero, 0)

    def is_done(self, steps: int) -> bool:
        """Whether as many weights are zero after so many steps as there will be."""
        return self._final is None or steps > int(_END * self._steps)

    def _choose(self, step: int) -> None:
        assert self._final is not None
        end = max(1, int(_END * self._steps))
        share = cubic_sparsity(step, 0, end, self._initial, max(self._final, self._initial))
        sizes = [self._parameters[name].numel() for name in self._weights]
        scores = torch.cat([self._parameters[name].detach().abs().flatten() for name in self._weights])
        low = lowest(scores, round(share * len(scores)))
        for name, part in zip(self._weights, low.split(sizes), strict=True):
            shape, known = self._parameters[name].shape, self._zero.get(name)
            self._zero[name] = part.reshape(shape) if known is None else known | part.reshape(shape)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The masks, for a checkpoint."""
        return dict(self._zero)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on with the masks of a checkpoint."""
        self._zero = {name: put(zero, self._parameters[name].device) for name, zero in state.items()}
