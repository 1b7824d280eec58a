"""A layer as a matrix product: rows of its inputs and of its outputs, at positions drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch.nn import functional as F

from fxopt.ir.op_table import arguments, border, each_dim
from fxopt.ir.printer import op_name
from fxopt.ir.transfer import put

_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d")
_PRODUCTS = {"aten.mm": ("self", "mat2"), "aten.matmul": ("self", "other"), "aten.addmm": ("mat1", "mat2")}


@dataclass(frozen=True)
class MatrixLayer:
    """A linear, matrix product or convolution: ``matrix(weight)`` is ``[groups, out / groups, in / groups, kernel]``."""

    node: fx.Node
    data: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    groups: int = 1
    transposed: bool = False

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its groups, and its kernel in one dim."""
        if self.transposed:
            weight = weight.T
        return weight.reshape(self.groups, -1, weight.shape[1], weight[0, 0].numel())

    def stored(self, matrix: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The weight that has this matrix."""
        if self.transposed:
            return matrix.reshape(like.shape[::-1]).T.contiguous().to(like.dtype)
        return matrix.reshape(like.shape).to(like.dtype)

    def rows(
        self, x: torch.Tensor, y: torch.Tensor, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs ``[groups, rows, in / groups, kernel]`` and outputs ``[rows, groups, out / groups]``, ``count`` rows at most.

        The positions are drawn without replacement, and come in the order of the batch.
        """
        if _packet(self.node) not in _CONVOLUTIONS:
            given = y.reshape(-1, y.shape[-1])
            chosen = put(_draw(len(given), count, generator), y.device)
            read = x.reshape(-1, x.shape[-1])[chosen]
            return read[None, :, :, None], given[chosen][:, None]
        if x.dim() < self.weight.meta["val"].dim():
            x, y = x[None], y[None]
        return self._patches(x, y, count, generator)

    def _patches(
        self, x: torch.Tensor, y: torch.Tensor, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        call, kernel = arguments(self.node), self.weight.meta["val"].shape[2:]
        stride, dilation = (each_dim(call[name], len(kernel)) for name in ("stride", "dilation"))
        sizes = [y.shape[0], *y.shape[2:]]
        chosen = _draw(y.numel() // y.shape[1], count, generator)
        batch, *at = put(torch.unravel_index(chosen, sizes), y.device)
        zeros = reversed(border(call["padding"], kernel, dilation))  # F.pad takes the last dim first
        padded = F.pad(x, [size for sides in zeros for size in sides]).movedim(1, -1)
        where = []
        for i, size in enumerate(kernel):
            steps = at[i][:, None] * stride[i] + torch.arange(size, device=x.device) * dilation[i]
            where.append(steps.reshape(-1, *(size if i == j else 1 for j in range(len(kernel)))))
        read = padded[(batch.reshape(-1, *[1] * len(kernel)), *where)].flatten(1, -2).transpose(1, 2)
        given = y.movedim(1, -1).flatten(0, -2)[put(chosen, y.device)]
        return read.unflatten(1, (self.groups, -1)).transpose(0, 1), given.unflatten(1, (self.groups, -1))


def layer_of(node: fx.Node, weight: fx.Node) -> MatrixLayer | str:
    """The layer that reads this weight, or the reason why it is left alone."""
    packet, call = _packet(node), arguments(node)
    if packet == "aten.linear" and call["weight"] is weight and weight.meta["val"].dim() == 2:
        return MatrixLayer(node, call["input"], weight, call["bias"])
    if packet in _CONVOLUTIONS and call["weight"] is weight:
        return MatrixLayer(node, call["input"], weight, call["bias"], call["groups"])
    data, second = _PRODUCTS.get(packet, ("", ""))
    plain = call.get("alpha", 1) == call.get("beta", 1) == 1
    if second and call[second] is weight and weight.meta["val"].dim() == 2 and plain:
        return MatrixLayer(node, call[data], weight, call["self"] if packet == "aten.addmm" else None, transposed=True)
    return f"{packet} with this weight is not refitted; linear, matrix products and convolutions are"


def _packet(node: fx.Node) -> str:
    """The op without its overload: ``aten.conv2d`` of ``aten.conv2d.padding``."""
    return ".".join(op_name(node).split(".")[:2])


def _draw(n: int, count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(n, generator=generator)[:count].sort().values
