"""A small network that is made of what stays in integers when it is quantized."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class IntegerChain(nn.Module):
    """Two convolutions and relus, a residual sum, a concatenation, pools and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x))
        z = F.relu(self.b(y) + y)
        z = torch.cat([F.max_pool2d(z, 2), F.avg_pool2d(self.c(z), 2)], 1)
        return self.head(z.mean((2, 3)))
