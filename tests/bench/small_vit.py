"""A small vision transformer for the digits, and the same function with a few outlier channels."""

from __future__ import annotations

import copy

import cases.trained
import torch
from torch import nn
from torch.nn import functional as F

from fxopt.workload import Workload

WIDTH, HEADS, DEPTH, TOKENS = 64, 4, 3, 16


class Block(nn.Module):
    """Pre-norm attention and a perceptron: float32 [N,T,WIDTH] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class SmallViT(nn.Module):
    """float32 [N,1,8,8] -> scores [N,10]: convolutions make 16 patches, and the mean over them is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.patches = nn.Conv2d(1, 32, 3, 1, 1), nn.Conv2d(32, WIDTH, 3, 2, 1)
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(F.relu(self.stem(images))).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def with_outliers(module: SmallViT, factor: float = 50.0, channels: int = 3) -> SmallViT:
    """A copy that computes the same, in which the first ``channels`` of every norm in a block are ``factor`` times as large.

    The linear that reads them undoes it. Transformers grow such channels by themselves (Dettmers et al. 2022).
    """
    result = copy.deepcopy(module)
    with torch.no_grad():
        for block in result.blocks:
            for norm, linear in ((block.norm, block.qkv), (block.norm2, block.up)):
                norm.weight[:channels] *= factor
                norm.bias[:channels] *= factor
                linear.weight[:, :channels] /= factor
    return result


def trained(epochs: int = 30, seed: int = 0) -> SmallViT:
    """The network trained on the digits, in evaluation mode: seconds, some 97 % top-1."""
    return cases.trained.trained(SmallViT, "digits", epochs=epochs, lr=2e-3, weight_decay=0.02, seed=seed)


def workload_of(net: nn.Module) -> Workload:
    """The digits with another network."""
    return cases.trained.with_network("digits", "small_vit", net)
