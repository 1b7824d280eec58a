"""A pitch tracker: convolutions over the wave, a recurrent layer over frames."""

from __future__ import annotations

import torch
from torch import nn


def conv_norm_1d(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, batch norm and ReLU, float32 [N,C,L] -> [N,outputs,L/stride]."""
    padding = (kernel - stride) // 2
    convolution = nn.Conv1d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(outputs), nn.ReLU())


class PitchNet(nn.Module):
    """Waves float32 [N,1,256 F] -> scores [N,bins,F] of the pitch of each of F frames.

    The recurrent layer looks back alone, so that a stream can be followed; convolutions see half a frame ahead.
    """

    def __init__(self, bins: int, *, widths: tuple[int, int, int, int] = (32, 64, 96, 96), hidden: int = 96) -> None:
        super().__init__()
        self.front = nn.Sequential(
            conv_norm_1d(1, widths[0], 64, 8),
            conv_norm_1d(widths[0], widths[1], 16, 4),
            conv_norm_1d(widths[1], widths[2], 8, 4),
            conv_norm_1d(widths[2], widths[3], 4, 2),
        )
        self.memory = nn.GRU(widths[3], hidden, batch_first=True)
        self.head = nn.Linear(hidden, bins)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Scores (logits) of the bins."""
        frames = self.front(waves).transpose(1, 2)
        return self.head(self.memory(frames)[0]).transpose(1, 2)
