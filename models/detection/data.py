"""Images with boxes as a workload's data: batches, flips, the loss of a detector, mean average precision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from fxopt.models.detection.average_precision import mean_average_precision
from fxopt.models.detection.targets import Scenes, check_scenes
from fxopt.models.images import normalized, relight
from fxopt.models.splits import halved, one_split
from fxopt.workload import Args, Split

Splits = Mapping[Split, Scenes]


@dataclass(frozen=True)
class DetectionImages:
    """Data (see :class:`fxopt.workload.Data`) over splits that ``load`` returns; ``load`` should be cached.

    Targets are ``(boxes, labels)``, see :class:`fxopt.models.detection.targets.Scenes`. The model is the graph of a detector;
    ``criterion(output, target)`` is the loss of its outputs, ``soft_criterion(output, teacher)`` that against a teacher's,
    without labels, and ``tail(outputs, images)`` makes objects of them, a dict of
    ``boxes``, ``scores`` and ``labels`` for each image: a function, or the :class:`fxopt.Tail` of a model captured with
    ``until``. Images uint8 become float32 of about zero mean and unit variance, (x / 255 - 0.5) / 0.25; others stay.

    Every split is checked when it is first read: DataError, see :func:`fxopt.models.detection.targets.check_scenes`.
    """

    load: Callable[[], Splits]
    classes: tuple[str, ...]
    criterion: Callable[[Any, Any], torch.Tensor]
    soft_criterion: Callable[[Any, Any], torch.Tensor]
    tail: Callable[..., Sequence[dict[str, Any]]]
    metric: str = "mAP@50"

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``((images,), (boxes, labels))``: as stored without a seed, else shuffled, flipped and lit by it."""
        scenes = self._split(split)
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        count = len(scenes.images)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        for rows in order.split(batch_size):
            images, boxes, labels = (value[rows] for value in scenes)
            images = normalized(images)
            if generator is not None:
                images, boxes = _varied(images, boxes, generator)
            yield (images,), (boxes, labels)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Scalar loss of the outputs of the graph against ``(boxes, labels)``."""
        return self.criterion(output, target)

    def soft_loss(self, output: Any, teacher: Any) -> torch.Tensor:
        """Scalar loss of the outputs of the graph against a teacher's."""
        return self.soft_criterion(output, teacher)

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """The mAP@50, 0 to 1, of what the tail finds in the outputs of ``model``."""
        return self.figures(model, split)["mAP@50"]

    def figures(self, model: Callable[..., Any], split: Split = "test") -> dict[str, float]:
        """``mAP@50``, ``mAP@50:95``, and the ``AP@50`` of each class, 0 to 1."""
        found: list[dict[str, Any]] = []
        with torch.no_grad():
            for args, _ in self.batches(split, batch_size=64):
                found += self.tail(model(*args), *args)
        scenes = self._split(split)
        return mean_average_precision(found, scenes.boxes, scenes.labels, self.classes)

    def half(self, index: Literal[0, 1]) -> DetectionImages:
        """The same data with every other image of the validation split."""
        return replace(self, load=functools.partial(halved, self.load, index))

    def _split(self, split: Split) -> Scenes:
        scenes = one_split(self.load(), split)
        check_scenes(scenes, len(self.classes), f"split {split!r}")
        return scenes


def _varied(images: torch.Tensor, boxes: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Half of the images mirrored, with their boxes, and all in another light."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    left, top, right, bottom = boxes.unbind(2)
    wide = images.shape[3]
    boxes = torch.where(mirrored[:, None, None], torch.stack([wide - right, top, wide - left, bottom], 2), boxes)
    return relight(images, generator), boxes
