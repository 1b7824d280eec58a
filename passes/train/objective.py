"""What training minimises."""

from __future__ import annotations

from typing import Any

import torch

from fxopt.ir.trainable_module import TrainableModule


class Objective(torch.nn.Module):
    """The mean loss of a program over one batch; parameters of its own are trained along, and are not part of the result."""

    watched: tuple[str, ...] = ()
    """Nodes of the program whose values it looks at, see :class:`fxopt.ir.trainable_module.TrainableModule`."""

    keeps_last = False
    """Whether the weights after the last epoch are kept, and not those that did best in validation."""

    def forward(self, output: Any, args: tuple[Any, ...], target: Any, module: TrainableModule) -> torch.Tensor:
        """The loss of the ``output`` that ``module`` just returned for ``args``, with gradients."""
        raise NotImplementedError

    def validation(self, output: Any, args: tuple[Any, ...], target: Any) -> torch.Tensor:
        """The loss that breaks ties between epochs of the same metric."""
        raise NotImplementedError
