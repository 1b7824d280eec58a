"""Networks whose int8 kernels differ: what is added in 16 bits before VNNI depends on channels, groups and dims."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fxopt import Workload, capture
from fxopt.testing import small_workload
from fxopt.workload import find_workload

STATIC = "fold_batch_norm, quantize"


@dataclass(frozen=True)
class Int8Net:
    """A network, how it is quantized, and the most examples of its test split that it is run on."""

    name: str
    workload: Callable[[], Workload]
    passes: str = STATIC
    batch: int = 32


class _Bright(nn.Module):
    """Layers behind a sigmoid, so that they read codes up to 255."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.sigmoid(2 * x + 1))


def _small(shape: tuple[int, ...], *layers: Callable[[], nn.Module]) -> Workload:
    """Random weights, as large as initialisation makes them and two thirds of them positive, so that sums are large."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = _Bright(*(make() for make in layers)).eval()
        for name, weight in net.named_parameters():
            if name.endswith("weight"):
                weight += weight.abs() * (torch.rand(weight.shape) < 1 / 3) * 2 * (weight < 0)
        return small_workload(capture(net, (torch.randn(8, *shape),)))


def _net(name: str, shape: tuple[int, ...], *layers: Callable[[], nn.Module], passes: str = STATIC) -> Int8Net:
    return Int8Net(name, functools.partial(_small, shape, *layers), passes)


def _layer(kind: type[nn.Module], *sizes: int, groups: int = 1) -> Callable[[], nn.Module]:
    return functools.partial(kind, *sizes, groups=groups)


_LINEARS = (functools.partial(nn.Linear, 70, 64), nn.ReLU, functools.partial(nn.Linear, 64, 40))
KINDS = (
    _net("audio, one channel", (1, 400), _layer(nn.Conv1d, 1, 24, 9), nn.ReLU, _layer(nn.Conv1d, 24, 20, 5)),
    _net("grey images", (1, 16, 16), _layer(nn.Conv2d, 1, 16, 3), nn.ReLU, _layer(nn.Conv2d, 16, 12, 3)),
    _net("depthwise", (20, 12, 12), _layer(nn.Conv2d, 20, 20, 3, groups=20), nn.ReLU, _layer(nn.Conv2d, 20, 8, 1)),
    _net("depthwise x 3", (8, 12, 12), _layer(nn.Conv2d, 8, 24, 3, groups=8), nn.ReLU, _layer(nn.Conv2d, 24, 8, 1)),
    _net("grouped, odd", (12, 12, 12), _layer(nn.Conv2d, 12, 32, 3, groups=4), nn.ReLU, _layer(nn.Conv2d, 32, 8, 1)),
    _net("linear", (70,), *_LINEARS),
)
OTHER_SCHEMES = (
    _net("dynamic", (70,), *_LINEARS, passes="quantize_dynamic"),
    _net("weights in 8 bits", (70,), *_LINEARS, passes="quantize_weights(bits=8)"),
    _net("weights in 4 bits", (70,), *_LINEARS, passes="quantize_weights(bits=4)"),
)
"""Those whose integer kernels ONNX Runtime alone has."""
MAIN = (
    Int8Net("digits", functools.partial(find_workload, "digits")),
    Int8Net("glyphs", functools.partial(find_workload, "glyphs(examples=400)"), batch=4),
)
ZOO = tuple(
    Int8Net(name, functools.partial(find_workload, f"torchvision:{name}"), batch=1)
    for name in ("resnet18", "mobilenet_v2")
)
