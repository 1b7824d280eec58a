"""Small networks on lines and volumes, and one that makes images larger."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Wave(nn.Module):
    """A network on a line: residual, gate, pools, concatenation, mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)
        self.gate, self.last = nn.Conv1d(8, 8, 1), nn.Conv1d(16, 6, 1)
        self.scale = nn.Parameter(torch.randn(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool1d(F.gelu(self.first(x)), 3, 2, 1)
        x = x + F.relu6(self.second(x)) * self.scale
        x = x * torch.sigmoid(self.gate(x.mean(-1, keepdim=True)))
        x = torch.cat([x, F.avg_pool1d(x, 3, 1, 1)], 1)
        return self.last(x).mean(2)


class Clip(nn.Module):
    """A network on volumes with a residual, a pool, and a view of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.time = (
            nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0)),
        )
        self.head = nn.Linear(8 * 4 * 6 * 6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.time(x))
        return self.head(x.view(x.shape[0], -1))


class Decoder(nn.Module):
    """Transposed convolutions of the usual sizes, to four times the height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ConvTranspose2d(8, 12, 4, 2, 1), nn.ConvTranspose2d(12, 6, 2, 2)
        self.last = nn.ConvTranspose2d(6, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.second(F.relu(self.first(x)))))
