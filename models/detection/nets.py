"""A single-shot detector of depthwise-separable convolutions, without anchors, for small images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from fxopt.models.detection.detect import detect
from fxopt.models.nets import conv_norm


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, with a skip where the shape stays: [N,C,H,W] -> [N,outputs,H/s,W/s]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.skips = inputs == outputs and stride == 1
        self.depthwise = conv_norm(inputs, inputs, 3, stride=stride, groups=inputs)
        self.pointwise = conv_norm(inputs, outputs, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(f(x)), or relu(x + f(x))."""
        made = self.pointwise(self.depthwise(x))
        return torch.relu(x + made if self.skips else made)


class Predictor(nn.Module):
    """What one resolution says at each of its positions: float32 [N,C,H,W] -> logits [N,classes,H*W], codes [N,4,H*W]."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.tower = Separable(inputs, inputs)
        self.classes, self.boxes = nn.Conv2d(inputs, classes, 1), nn.Conv2d(inputs, 4, 1)
        # at first every class has a probability of 1 %, so that the many empty positions do not drown the rest
        nn.init.constant_(self.classes.bias, -math.log(99))  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and codes, row after row."""
        x = self.tower(x)
        return self.classes(x).flatten(2), self.boxes(x).flatten(2)


class DetectorNet(nn.Module):
    """The graph of a detector: images float32 [N,3,H,W] -> logits [N,classes,P] and box codes [N,4,P].

    P are the positions of strides 8 and 16 (see :mod:`fxopt.models.detection.grid`). ``widths`` are the channels at strides
    2, 4, 8 and 16, and ``depth`` the blocks at each of the last three.
    """

    def __init__(
        self,
        classes: int,
        *,
        widths: tuple[int, int, int, int] = (32, 64, 128, 160),
        depth: tuple[int, ...] = (2, 3, 2),
    ) -> None:
        super().__init__()
        self.stem = conv_norm(3, widths[0], 3, stride=2)
        stages = [
            nn.Sequential(Separable(before, width, 2), *(Separable(width, width) for _ in range(blocks)))
            for before, width, blocks in zip(widths[:3], widths[1:], depth, strict=True)
        ]
        self.fine, self.coarse = nn.Sequential(*stages[:2]), stages[2]
        self.head = nn.ModuleList([Predictor(width, classes) for width in widths[2:]])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and codes of all positions."""
        fine = self.fine(self.stem(images))
        parts = [head(x) for head, x in zip(self.head, (fine, self.coarse(fine)), strict=True)]
        return torch.cat([logits for logits, _ in parts], 2), torch.cat([codes for _, codes in parts], 2)


class Detector(nn.Module):
    """A whole detector, as a user calls it: images float32 [N,3,H,W] -> a dict of boxes, scores and labels for each.

    What follows ``net`` sizes its results by their values: the graph ends there, and this is its tail.
    """

    def __init__(self, net: DetectorNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> list[dict[str, Any]]:
        """Decoded boxes without those of one object twice; see :func:`fxopt.models.detection.detect.detect`."""
        outputs = [value.detach() for value in self.net(images)]
        found = detect(outputs, images)
        return [{key: torch.from_numpy(value) for key, value in each.items()} for each in found]
