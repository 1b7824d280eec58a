"""Images for models that come without data: smooth random fields, and the agreement with the original model on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from fxopt.errors import DataError
from fxopt.models.images import scores
from fxopt.workload import Args, Split

_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_COUNTS: dict[Split, int] = {"train": 256, "validation": 64, "test": 64}


def synthetic_image(shape: tuple[int, int, int], seed: int, *, normalised: bool = True) -> torch.Tensor:
    """A smooth random image float32 [C,H,W] with fine noise, in 0 to 1, or then normalised like ImageNet."""
    generator = torch.Generator().manual_seed(seed)
    channels, high, wide = shape
    field = torch.randn(channels, 1, 1, generator=generator) * 0.5
    for cells in (2, 4, 8, 16):
        coarse = torch.randn(1, channels, cells, cells, generator=generator) * (2 / cells) ** 0.5
        field = field + F.interpolate(coarse, (high, wide), mode="bilinear", align_corners=True)[0]
    image = torch.sigmoid(field + 0.2 * torch.randn(shape, generator=generator))
    if not normalised:
        return image
    if channels != 3:
        return (image - 0.45) / 0.225
    return (image - _MEAN) / _STD


def synthetic_batch(count: int, shape: tuple[int, int, int], seed: int = 0, *, normalised: bool = True) -> torch.Tensor:
    """``count`` different images: float32 [count,C,H,W]; the first ones are the same for any count."""
    return torch.stack([synthetic_image(shape, 1_000_000 * seed + i, normalised=normalised) for i in range(count)])


class SyntheticImages:
    """Data (see :class:`fxopt.workload.Data`) of an image classifier without data: synthetic images, no labels.

    The metric ``agreement`` is the share of images, 0 to 1, on which a model's highest score is that of the original
    model, ``model()``. It says how well a compiled model follows the original, and nothing of accuracy on real images.
    Targets are None, and a loss raises DataError: there is nothing to learn. 256 train, 64 validation, 64 test images.
    """

    metric = "agreement"
    metric_of_original = 1.0

    def __init__(self, model: Callable[[], torch.nn.Module], shape: tuple[int, int, int]) -> None:
        self.model = model
        self.shape = shape
        self._answers: dict[Split, torch.Tensor] = {}

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``((images,), None)``, images float32 [N,C,H,W]; ``seed`` shuffles, nothing is augmented."""
        if split not in _COUNTS:
            raise DataError(f"there is no split {split!r}; there are: {', '.join(_COUNTS)}")
        count, first = _COUNTS[split], 10_000 * (1 + list(_COUNTS).index(split))
        order = torch.arange(count)
        if seed is not None:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        for some in order.split(batch_size):
            yield (torch.stack([synthetic_image(self.shape, first + int(i)) for i in some]),), None

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Raise DataError: synthetic images have no labels."""
        raise DataError(
            "synthetic images have no labels to train on",
            way_out="give a workload with data, or distill from the original model",
        )

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Share of images, 0 to 1, where ``model`` and the original model name the same class."""
        if split not in self._answers:
            self._answers[split] = self._classes(self.model().eval(), split)
        return float((self._classes(model, split) == self._answers[split]).float().mean())

    def _classes(self, model: Callable[..., Any], split: Split) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([scores(model(*args)).argmax(1) for args, _ in self.batches(split, batch_size=16)])
