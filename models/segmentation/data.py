"""Images with a class for each pixel as a workload's data: batches, flips, loss, mean intersection over union."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn import functional as F

from fxopt.errors import DataError
from fxopt.models.images import normalized, relight, scores
from fxopt.models.splits import halved, one_split
from fxopt.workload import Args, Split

Splits = Mapping[Split, tuple[torch.Tensor, torch.Tensor]]
"""Per split: images [N,C,H,W], and masks of integers [N,H,W]."""

IGNORED = 255
"""The value of pixels in masks that have no class: they count neither in the loss nor in the metric."""


@dataclass(frozen=True)
class SegmentationImages:
    """Data (see :class:`fxopt.workload.Data`) over splits that ``load`` returns; ``load`` should be cached.

    Targets are masks int64 [N,H,W] with the number of a class of ``classes``, or 255 where a pixel has none. Images uint8
    are scaled as :func:`fxopt.models.images.normalized` says; others stay. Raises DataError, when a split is first read,
    for masks of another size than the images or with a number that is no class.
    """

    load: Callable[[], Splits]
    classes: tuple[str, ...]
    metric: str = "mIoU"

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``((images,), masks)``: as stored without a seed, else shuffled, half of them mirrored, and lit by it."""
        images, masks = self._split(split)
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        order = torch.arange(len(images)) if generator is None else torch.randperm(len(images), generator=generator)
        for rows in order.split(batch_size):
            some, wanted = normalized(images[rows]), masks[rows].long()
            if generator is not None:
                mirrored = torch.rand(len(rows), 1, 1, generator=generator) < 0.5
                wanted = torch.where(mirrored, wanted.flip(2), wanted)
                some = relight(torch.where(mirrored[..., None], some.flip(3), some), generator)
            yield (some,), wanted

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Cross entropy of scores [N,classes,H,W] against masks int64 [N,H,W], and 1 less Dice's coefficient.

        The first is a mean over pixels, so that small classes would be left to the ground; the second is one over the classes
        in the batch (Milletari, Navab & Ahmadi 2016, section 3).
        """
        known = target != IGNORED
        wanted = F.one_hot(target.where(known, 0), output.shape[1]).movedim(-1, 1) * known.unsqueeze(1)
        found = output.softmax(1) * known.unsqueeze(1)
        common, sizes = (values.sum((0, 2, 3)) for values in (found * wanted, found + wanted))
        there = wanted.sum((0, 2, 3)) > 0
        missed = (1 - 2 * common / sizes.clamp_min(1)) * there
        entropy = F.cross_entropy(output, target, ignore_index=IGNORED, reduction="sum") / known.sum().clamp_min(1)
        return entropy + missed.sum() / there.sum().clamp_min(1)

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Intersection over union of a class in the whole split, 0 to 1, averaged over the classes (Everingham et al. 2010)."""
        return self.figures(model, split)["mIoU"]

    def figures(self, model: Callable[..., Any], split: Split = "test") -> dict[str, float]:
        """``mIoU``, the share of pixels that are right, ``accuracy``, and the ``IoU`` of each class; 0 to 1.

        A class that is neither in the masks nor found counts in no mean, and its own is not a number.
        """
        count = len(self.classes)
        pairs = torch.zeros(count * count, dtype=torch.int64)
        with torch.no_grad():
            for args, masks in self.batches(split, batch_size=64):
                found = scores(model(*args)).argmax(1)
                there = masks != IGNORED
                pairs += torch.bincount(masks[there] * count + found[there], minlength=count * count)
        table = pairs.view(count, count).double()
        common = table.diagonal()
        each = common / (table.sum(0) + table.sum(1) - common)
        named = {f"IoU {name}": float(value) for name, value in zip(self.classes, each, strict=True)}
        return {"mIoU": float(each.nanmean()), "accuracy": float(common.sum() / table.sum()), **named}

    def half(self, index: Literal[0, 1]) -> SegmentationImages:
        """The same data with every other image of the validation split."""
        return replace(self, load=functools.partial(halved, self.load, index))

    def _split(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        images, masks = one_split(self.load(), split)
        if len(images) != len(masks) or images.shape[2:] != masks.shape[1:]:
            raise DataError(
                f"split {split!r}: masks {list(masks.shape)} do not fit images {list(images.shape)}",
                way_out="give a mask [N,H,W] of as many rows and columns as the images [N,C,H,W]",
            )
        if len(masks) and (wrong := int(masks.masked_fill(masks == IGNORED, 0).max())) >= len(self.classes):
            raise DataError(
                f"split {split!r}: a mask holds {wrong}, and there are classes 0 to {len(self.classes) - 1}",
                way_out=f"number classes from 0; pixels without one are {IGNORED}",
            )
        return images, masks
