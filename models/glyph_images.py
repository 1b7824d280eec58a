"""Procedurally drawn characters: Pillow's built-in font, bent, blurred and made noisy, from a seed."""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional as F

from fxopt.errors import DataError
from fxopt.models.images import Splits
from fxopt.models.splits import drawn_splits

ALPHABET = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghnqrt"
"""45 classes. Left out is what cannot be told apart once its size is random: I O, and c i j k l m o p s u-z."""

_CHUNK = 500
_BOLDNESS = (0, 1, 2, 3)
"""Stroke widths, in pixels of a template, that each character is drawn with."""


@functools.lru_cache(maxsize=4)
def glyph_splits(size: int, classes: str, examples: int) -> Splits:
    """``examples`` training images, an eighth as many for validation and a quarter for test, each from its own seed.

    Images are float32 [N,1,size,size] of about zero mean and unit variance, labels index ``classes``. Raises DataError
    without Pillow, or with a Pillow that has no TrueType font.
    """
    return drawn_splits(examples, lambda count, seed: draw(count, size, classes, seed))


def draw(count: int, size: int, classes: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``count`` characters in an order that mixes the classes: float32 [count,1,size,size], int64 [count]."""
    templates = _templates(classes, 2 * size)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(classes)
    labels = labels[torch.randperm(count, generator=generator)]
    boldness = torch.randint(len(_BOLDNESS), (count,), generator=generator)
    drawn = []
    # in chunks, because the images are twice the size while they are drawn
    for some, bold in zip(labels.split(_CHUNK), boldness.split(_CHUNK), strict=True):
        drawn.append(_degrade(_bend(templates[some, bold].unsqueeze(1), generator), generator))
    return torch.cat(drawn) if drawn else torch.empty(0, 1, size, size), labels


@functools.lru_cache(maxsize=4)
def _templates(classes: str, side: int) -> torch.Tensor:
    """Every character in every boldness, centred, ink 1 on 0: float32 [classes,boldness,side,side]."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise DataError("glyphs are drawn with Pillow", way_out="pip install 'fxopt[digits]'") from error
    font = ImageFont.load_default(size=side * 0.75)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise DataError(
            "this Pillow was built without FreeType, and has no scalable font", way_out="pip install pillow"
        )
    rows = []
    for character in classes:
        for stroke in _BOLDNESS:
            image = Image.new("L", (side, side))
            width = stroke * side // 64
            left, top, right, bottom = font.getbbox(character, stroke_width=width)
            at = ((side - left - right) / 2, (side - top - bottom) / 2)
            ImageDraw.Draw(image).text(at, character, fill=255, font=font, stroke_width=width)
            rows.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(side, side))
    return torch.stack(rows).float().div(255).view(len(classes), len(_BOLDNESS), side, side)


def _bend(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random affine map: turn up to 20 degrees, shear up to 0.3, size 70 to 130 %, shift up to 12 % of the side."""
    count = len(images)
    angle = _between(count, -math.radians(20), math.radians(20), generator)
    shear = _between(count, -0.3, 0.3, generator)
    wide, high = (_between(count, 0.77, 1.43, generator) for _ in range(2))
    matrix = torch.stack(
        [
            torch.stack([wide * angle.cos(), shear - angle.sin(), _between(count, -0.25, 0.25, generator)], 1),
            torch.stack([angle.sin(), high * angle.cos(), _between(count, -0.25, 0.25, generator)], 1),
        ],
        dim=1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.avg_pool2d(F.grid_sample(images, grid, align_corners=False), 2)


def _degrade(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, uneven light, a random contrast (of either sign) and noise; then zero mean and unit variance an image."""
    count, _, high, wide = images.shape
    # a 5x5 binomial blur stands for a Gaussian of one pixel
    row = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    blurred = F.conv2d(images, torch.outer(row, row)[None, None], padding=2)
    share = _between(count, 0, 1, generator).view(-1, 1, 1, 1)
    contrast = _between(count, 0.6, 1, generator) * torch.randint(0, 2, (count,), generator=generator).mul(2).sub(1)
    light = F.interpolate(
        torch.randn(count, 1, 3, 3, generator=generator), (high, wide), mode="bicubic", align_corners=True
    )
    noise = torch.randn(images.shape, generator=generator) * _between(count, 0.05, 0.2, generator).view(-1, 1, 1, 1)
    mixed = (blurred * share + images * (1 - share)) * contrast.view(-1, 1, 1, 1) + 0.15 * light + noise
    mixed = mixed - mixed.mean((2, 3), keepdim=True)
    return mixed / mixed.std((2, 3), keepdim=True)


def _between(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low
