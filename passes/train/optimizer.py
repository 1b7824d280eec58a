"""The optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from fxopt.passes.train.options import TrainOptions

_MOMENTUM = 0.9


def make_optimizer(parameters: Iterable[torch.nn.Parameter], how: TrainOptions) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.9; decay is for weights of layers, not for biases and norms."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": how.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if how.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=how.rate, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=how.rate)


def make_schedule(optimizer: torch.optim.Optimizer, how: TrainOptions, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over a share of ``steps``, then a cosine to zero (Loshchilov & Hutter 2017, eq. 5, without restarts)."""
    warm = round(how.warmup * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
