"""A small vision transformer, trained on the drawn characters of `glyphs`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import torch
from annotated_doc import Doc
from torch import nn
from torch.nn import functional as F

from fxopt.models.glyph_images import ALPHABET
from fxopt.models.glyphs import glyphs
from fxopt.models.weights import trained
from fxopt.workload import Workload

WEIGHTS = Path(__file__).parent / "demo_weights" / "small_vit.safetensors"
COMMAND = f"python -m fxopt.models.train small_vit --out {WEIGHTS}"


class Block(nn.Module):
    """Pre-norm attention and a perceptron: float32 [N,T,width] -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention and perceptron, each added to what it reads."""
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class SmallViT(nn.Module):
    """float32 [N,1,H,W] -> scores [N,classes]: convolutions make 16 patches, and the mean over them is classified.

    ``stem`` holds channels and stride of each convolution but the last, which has stride 2 and gives ``width`` channels; H
    and W must be such that 4 by 4 positions are left.
    """

    def __init__(self, classes: int, *, stem: tuple[tuple[int, int], ...], width: int, heads: int, depth: int) -> None:
        super().__init__()
        channels = [1, *(outputs for outputs, _ in stem)]
        self.stem = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride, 1)
            for inputs, (outputs, stride) in zip(channels[:-1], stem, strict=True)
        )
        self.patches = nn.Conv2d(channels[-1], width, 3, 2, 1)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores (logits), float32 [N,classes]."""
        for convolution in self.stem:
            images = F.relu(convolution(images))
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def small_vit(*, examples: Annotated[int, Doc("Training images, as those of glyphs.")] = 9000) -> Workload:
    """Drawn characters: the images of `glyphs`, 45 classes, trained vision transformer (0.4 M parameters).

    Input float32 [N,1,32,32], output scores float32 [N,45]; ``examples`` and the images are those of `glyphs`, whose errors
    it raises. The model raises RecipeError where its weights file is missing.
    """
    drawn = glyphs(examples=examples)
    return Workload(
        name="small_vit",
        model=functools.partial(trained, vit_net, WEIGHTS, command=COMMAND),
        inputs=drawn.inputs,
        data=drawn.data,
    )


def vit_net() -> SmallViT:
    """The untrained network, initialised from torch's global generator."""
    return SmallViT(len(ALPHABET), stem=((24, 2), (48, 2)), width=96, heads=4, depth=4)
