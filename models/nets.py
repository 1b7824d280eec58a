"""The network behind `digits` and `glyphs`: small, and with one of each structure a graph pass must cope with."""

from __future__ import annotations

import torch
from torch import nn


def conv_norm(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch norm and (optionally) ReLU; padding keeps the size at stride 1."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a skip: [N,C,H,W] -> [N,C,H,W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv_norm(width, width, 3)
        self.second = conv_norm(width, width, 3, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(x + f(x))."""
        return torch.relu(x + self.second(self.first(x)))


class Branches(nn.Module):
    """A pointwise, a grouped and a pooled branch, concatenated, mixed and added: [N,C,H,W] -> [N,C,H,W].

    ``width`` must be divisible by 8: the grouped convolution has four groups.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.point = conv_norm(width, width // 4)
        self.grouped = conv_norm(width, width // 2, 3, groups=4)
        self.pooled = nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), conv_norm(width, width // 4))
        self.mix = conv_norm(width, width, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(x + mix(cat(branches(x))))."""
        parts = torch.cat([self.point(x), self.grouped(x), self.pooled(x)], dim=1)
        return torch.relu(x + self.mix(parts))


class CharacterNet(nn.Module):
    """Residual network for one grayscale character: float32 [N,1,H,W] -> class scores [N,classes].

    Each stage is ``depth[i]`` residual blocks and a branching block at ``widths[i]`` channels; a depthwise-separable
    convolution of stride 2 leads from one stage to the next. ``stem_pool`` halves the size once more, right after
    the first convolution. H and W are free, because the head pools over them.
    """

    def __init__(
        self,
        classes: int,
        *,
        widths: tuple[int, ...],
        depth: tuple[int, ...],
        stem_pool: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(1, widths[0], 3)]
        if stem_pool:
            layers.append(nn.MaxPool2d(2))
        for i, width in enumerate(widths):
            if i > 0:
                before = widths[i - 1]
                layers += [conv_norm(before, before, 3, stride=2, groups=before), conv_norm(before, width)]
            layers += [Residual(width) for _ in range(depth[i])]
            layers.append(Branches(width))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores (logits), float32 [N,classes]."""
        return self.head(self.dropout(self.pool(self.features(images)).flatten(1)))
