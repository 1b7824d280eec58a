"""A depthwise network for the glyphs, and the same function with channels of very different size."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import cases.trained
import torch
from torch import nn

from fxopt.workload import Workload

STRIDES = (2, 1, 2, 1)
WIDTHS = (16, 24, 48, 48)


class DepthwiseNet(nn.Module):
    """Depthwise-separable blocks with relu as MobileNet has them: float32 [N,1,32,32] -> scores [N,classes].

    ``chain`` lists the layers in order, each with the batch norm behind it: nothing but relu stands between them.
    """

    def __init__(self, classes: int = 45, *, norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, WIDTHS[0], 3, 2, 1, bias=not norm)]
        for stride, before, width in zip(STRIDES, (WIDTHS[0], *WIDTHS), WIDTHS, strict=False):
            layers.append(nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=not norm))
            layers.append(nn.Conv2d(before, width, 1, bias=not norm))
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c.out_channels) if norm else nn.Identity() for c in layers)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return self.head(x.mean((2, 3)))

    def chain(self) -> list[tuple[nn.Module, nn.Module]]:
        """Every layer with what multiplies its output channels: the batch norm behind it, or the layer itself."""
        pairs = zip(self.layers, self.norms, strict=True)
        made = [(layer, norm if isinstance(norm, nn.BatchNorm2d) else layer) for layer, norm in pairs]
        return [*made, (self.head, self.head)]


def ill_scaled(module: DepthwiseNet, spread: float = 100.0, seed: int = 0) -> DepthwiseNet:
    """A copy that computes the same, its channels multiplied by factors that differ by up to ``spread`` times.

    Each channel that a layer makes is multiplied by a factor, log-uniform from 1/sqrt(spread) to sqrt(spread), and the
    layer that reads it undoes that. In float nothing changes but rounding; in eight bits small channels drown.
    """
    generator = torch.Generator().manual_seed(seed)
    result = copy.deepcopy(module)
    with torch.no_grad():
        for (_, maker), (reader, _) in pairwise(result.chain()):
            exponent = torch.rand(len(maker.weight), generator=generator) - 0.5
            factor = (exponent * math.log(spread)).exp()
            maker.weight.mul_(factor.reshape(-1, *[1] * (maker.weight.dim() - 1)))
            maker.bias.mul_(factor)
            depthwise = getattr(reader, "groups", 1) > 1
            along = (-1, *[1] * (reader.weight.dim() - 1)) if depthwise else (1, -1, *[1] * (reader.weight.dim() - 2))
            reader.weight.div_(factor.reshape(along))
    return result


def trained(epochs: int = 6, seed: int = 0) -> DepthwiseNet:
    """The network trained on the glyphs, in evaluation mode: about a minute on one core, some 74 % top-1."""
    return cases.trained.trained(DepthwiseNet, "glyphs", epochs=epochs, lr=1e-2, weight_decay=1e-3, seed=seed)


def workload_of(net: DepthwiseNet) -> Workload:
    """The glyphs with another network."""
    return cases.trained.with_network("glyphs", "ill_scaled", net)
