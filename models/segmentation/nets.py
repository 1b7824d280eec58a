"""A small U-Net: what is seen coarsely is put beside what is seen finely (Ronneberger, Fischer & Brox 2015)."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from fxopt.models.nets import conv_norm


class UNet(nn.Module):
    """Images float32 [N,3,H,W] -> class scores of each pixel [N,classes,H,W].

    ``widths`` are the channels at full resolution and at each halving of it. H and W must be divisible by 2 to the power of
    the halvings. On the way up a coarser map is repeated (nearest neighbour) where the paper has a transposed convolution.
    """

    def __init__(self, classes: int, *, widths: tuple[int, ...] = (8, 16, 32, 64, 96)) -> None:
        super().__init__()
        self.stem = conv_norm(3, widths[0], 3)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(conv_norm(fine, coarse, 3, stride=2), conv_norm(coarse, coarse, 3)) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(conv_norm(fine + coarse, fine, 3) for fine, coarse in reversed(pairs))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores (logits)."""
        seen = [self.stem(images)]
        for down in self.down:
            seen.append(down(seen[-1]))
        x = seen.pop()
        for up in self.up:
            x = up(torch.cat([seen.pop(), F.interpolate(x, scale_factor=2.0)], 1))
        return self.head(x)
