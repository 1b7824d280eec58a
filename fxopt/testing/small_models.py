"""A dozen small models that together have most constructs on which passes and backends fail."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fxopt.frontend.capture import capture
from fxopt.ir.program import Program


@dataclass(frozen=True)
class SmallModel:
    """A model by name: ``make()`` returns the module, always with the same weights, ``inputs()`` its ``(args, kwargs)``."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]

    def module(self) -> nn.Module:
        """The module in evaluation mode; weights and batch-norm statistics are random, from a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.make()
            for part in module.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    for name, tensor in part.state_dict().items():
                        if name in ("running_mean", "bias"):
                            nn.init.normal_(tensor, 0.0, 0.3)
                        elif name in ("running_var", "weight"):
                            nn.init.uniform_(tensor, 0.5, 1.5)
        return module.eval()

    def program(self) -> Program:
        """A fresh copy of the captured program, with a dynamic batch."""
        return _captured(self).copy()


@functools.cache
def _captured(model: SmallModel) -> Program:
    args, kwargs = model.inputs()
    return capture(model.module(), args, kwargs)


def _tensor(*shape: int) -> Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]:
    return lambda: ((torch.randn(shape, generator=torch.Generator().manual_seed(1)),), {})


class _Residual(nn.Module):
    """Convolutions with batch norm, a residual sum, pooling, dropout and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.norm2(self.conv(y)) + y)
        return self.head(self.dropout(F.adaptive_avg_pool2d(y, 1).flatten(1)))


class _DepthwiseConcat(nn.Module):
    """Depthwise and pointwise convolutions, a concatenation, a split and a shuffle of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(4, 8, 1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(16, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.point(x))
        y = torch.cat([F.max_pool2d(y, 2), F.hardswish(self.norm(self.deep(y)))], 1)
        n, _, high, wide = y.shape
        y = y.view(n, 2, 8, high, wide).transpose(1, 2).reshape(n, 16, high, wide)
        left, right = y.chunk(2, 1)
        return self.last(torch.cat([left, torch.sigmoid(right)], 1))


class _Transposed(nn.Module):
    """Grouped transposed convolution with batch norm, and one in one dim."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.line = nn.Conv1d(8, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(F.leaky_relu(self.norm(self.up(x)), 0.1).flatten(2))


class _Transformer(nn.Module):
    """Pre-norm attention block with several heads, by matrix products and softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.dropout(self.out(y))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class _Tied(nn.Module):
    """An embedding of integer inputs whose weight is also that of the last linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(tokens))).mean(1))


class _Twice(nn.Module):
    """One convolution called twice, under two batch norms, and a batch norm with another reader before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        z = self.conv(F.relu(y))
        return self.norm2(z) + z * 0.5


class _Structured(nn.Module):
    """Two inputs, one by keyword, and outputs in a dict, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        y = self.linear(x) * scale
        return {"scores": y.softmax(-1), "parts": (y, y.amax(-1)), "again": y}


class _InPlace(nn.Module):
    """In-place ops, on a result, through a view, and on a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x).relu_()
        view = y.view(-1, 2, 3)
        view.mul_(2.0)
        z = y.clone()
        z[:, :2] = 0.0
        return y + z.add_(1.0)


class _Recurrent(nn.Module):
    """An LSTM whose last step is read."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class _NoOps(nn.Module):
    """Ops that do nothing here: identity, dropout, reshape to the same shape, whole slice, sum with zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.table: torch.Tensor
        self.register_buffer("table", torch.arange(8.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.dropout(self.linear(x), 0.5, self.training).reshape(-1, 8)[:]
        steps = torch.arange(8, dtype=y.dtype) * 0.25 + self.table
        return (torch.neg(torch.neg(y)) + steps).permute(0, 1).expand(-1, 8).contiguous() + self.linear(x)


class _PreNorm(nn.Module):
    """Batch norm where there is nothing to fold it into, in one dim and three, padding, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(2, affine=False)
        self.conv = nn.Conv3d(2, 4, (1, 3, 3), bias=False)
        self.linear, self.norm1 = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(F.pad(self.norm(x), (1, 1, 1, 1), value=0.5)).mean(2)
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.norm1(self.linear(y.amax((2, 3))))


class _Patches(nn.Module):
    """A model that most options of passes apply to: convolutions with batch norm, a residual sum, heads, linears."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm2 = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.conv(y) + y).flatten(2).transpose(1, 2)
        n, length, width = y.shape
        q, k, v = self.qkv(y).view(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = y + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))
        return self.head(self.norm2(y).mean(1))


def _tokens() -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.arange(10).reshape(2, 5),), {}


def _scaled() -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (_tensor(3, 6)()[0][0],), {"scale": torch.linspace(0.5, 1.5, 6)}


SMALL_MODELS: tuple[SmallModel, ...] = (
    SmallModel("residual", _Residual, _tensor(2, 3, 8, 8)),
    SmallModel("depthwise_concat", _DepthwiseConcat, _tensor(2, 4, 8, 8)),
    SmallModel("transposed", _Transposed, _tensor(2, 6, 4, 4)),
    SmallModel("transformer", _Transformer, _tensor(2, 5, 16)),
    SmallModel("tied", _Tied, _tokens),
    SmallModel("twice", _Twice, _tensor(2, 4, 6, 6)),
    SmallModel("structured", _Structured, _scaled),
    SmallModel("in_place", _InPlace, _tensor(3, 6)),
    SmallModel("recurrent", _Recurrent, _tensor(2, 4, 5)),
    SmallModel("no_ops", _NoOps, _tensor(3, 8)),
    SmallModel("pre_norm", _PreNorm, _tensor(2, 2, 3, 5, 5)),
)

BROAD_MODEL = SmallModel("patches", _Patches, _tensor(2, 3, 6, 6))
"""One model that most options apply to, for trying each with many values."""


def small_models() -> tuple[SmallModel, ...]:
    """The models, a dozen, each with float32 weights and a dynamic batch."""
    return SMALL_MODELS


def small_programs() -> dict[str, Program]:
    """The models captured, by name; fresh copies at every call."""
    return {model.name: model.program() for model in SMALL_MODELS}
