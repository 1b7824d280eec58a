"""Labelled images as a workload's data: fixed and shuffled batches, light augmentation, top-1."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn import functional as F

from fxopt.errors import DataError
from fxopt.models.splits import halved, one_split
from fxopt.workload import Args, Split

Splits = Mapping[Split, tuple[torch.Tensor, torch.Tensor]]
"""Per split: images float32 [N,1,H,W] in an order that mixes the classes, and labels int64 [N]."""


@dataclass(frozen=True)
class LabelledImages:
    """Data (see :class:`fxopt.workload.Data`) over splits that ``load`` returns; ``load`` should be cached.

    Targets are labels int64 [N]; the loss is cross entropy with label smoothing 0.05.
    """

    load: Callable[[], Splits]
    metric: str = "top-1"

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``((images,), labels)``: as stored without a seed, else shuffled and augmented, same for equal seeds."""
        images, labels = one_split(self.load(), split)
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        if generator is not None:
            order = torch.randperm(len(labels), generator=generator)
            images, labels = images[order], labels[order]
        for some, wanted in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            yield (some if generator is None else jitter(some, generator),), wanted

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Scalar cross entropy of scores [N,classes] against labels int64 [N]."""
        return F.cross_entropy(output, target, label_smoothing=0.05)

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Share of images, 0 to 1, whose highest score is the label's."""
        return self.correct(model, split) / len(one_split(self.load(), split)[1])

    def correct(self, model: Callable[..., Any], split: Split = "test") -> int:
        """Number of images whose highest score is the label's. A module should be in evaluation mode."""
        hits = 0
        with torch.no_grad():
            for args, labels in self.batches(split, batch_size=64):
                hits += int((scores(model(*args)).argmax(1) == labels).sum())
        return hits

    def half(self, index: Literal[0, 1]) -> LabelledImages:
        """The same data with every other image of the validation split."""
        return replace(self, load=functools.partial(halved, self.load, index))


def scores(output: Any) -> torch.Tensor:
    """Scores [N,classes] as a tensor, from a tensor or numpy array, alone or as the only element of a sequence or dict."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        if len(output) != 1:
            raise DataError(f"the metric needs one output, the model gave {len(output)}")
        output = output[0]
    return torch.as_tensor(output)


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn by up to 10 degrees, scale by up to 10 %, shift by up to 6 % of the side; float32 [N,C,H,W] -> the same."""
    angle = _uniform(len(images), math.radians(10), generator)
    scale = 1 + _uniform(len(images), 0.1, generator)
    matrix = torch.zeros(len(images), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos() * scale
    matrix[:, 1, 0] = angle.sin() * scale
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    # grid coordinates run from -1 to 1, so a shift of 0.12 is 6 % of the side
    matrix[:, 0, 2] = _uniform(len(images), 0.12, generator)
    matrix[:, 1, 2] = _uniform(len(images), 0.12, generator)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Images uint8 as float32 of about zero mean and unit variance, (x / 255 - 0.5) / 0.25; others as they are."""
    return images.float().div(255).sub(0.5).div(0.25) if images.dtype == torch.uint8 else images


def relight(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Contrast by up to 20 %, brightness by up to 0.2; float32 [N,C,H,W] -> the same."""
    contrast, light = torch.rand(2, len(images), 1, 1, 1, generator=generator) * 0.4 - 0.2
    return images * (1 + contrast) + light


def _uniform(count: int, limit: float, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * limit
