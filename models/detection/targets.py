"""Images with boxes: how they are stored, and the one check of what a data set gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from fxopt.errors import DataError

PADDING = -1
"""The class of a row that fills up an image with fewer boxes than another."""


class Scenes(NamedTuple):
    """Images with the boxes of their objects, the same number of rows for each image.

    ``images`` uint8 or float32 [N,C,H,W], ``boxes`` float32 [N,M,4] as left, top, right, bottom in pixels, ``labels`` int64
    [N,M] with the class of each box, or PADDING.
    """

    images: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor


def pad_boxes(images: torch.Tensor, boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> Scenes:
    """Scenes of images with any number of boxes each, also none: ``boxes[i]`` [n,4] and ``labels[i]`` [n].

    Raises DataError where these are not one for each image or each box.
    """
    if not len(images) == len(boxes) == len(labels):
        raise DataError(f"{len(images)} images have {len(boxes)} lists of boxes and {len(labels)} of labels")
    most = max((len(some) for some in boxes), default=0)
    padded = Scenes(images, torch.zeros(len(images), most, 4), torch.full((len(images), most), PADDING))
    for i, (some, classes) in enumerate(zip(boxes, labels, strict=True)):
        if some.shape != (len(classes), 4):
            raise DataError(
                f"image {i}: boxes and labels do not match",
                expected=f"boxes [{len(classes)}, 4] for {len(classes)} labels",
                got=f"boxes {list(some.shape)}",
            )
        if bool((classes == PADDING).any()):
            raise DataError(f"image {i}: class {PADDING} is that of padding", way_out="classes count from 0")
        padded.boxes[i, : len(some)], padded.labels[i, : len(some)] = some, classes
    return padded


def check_scenes(scenes: Scenes, classes: int, where: str) -> None:
    """Raise DataError for images or targets that nothing can be learned from or judged by; ``where`` says whose they are.

    Refused are values that are not finite, classes that there are not, boxes that are empty or reach out of the image, and
    a set without any box. An image without boxes is one to be silent on.
    """
    images, boxes, labels = scenes
    shapes = f"images {list(images.shape)}, boxes {list(boxes.shape)}, labels {list(labels.shape)}"
    if (
        images.dim() != 4
        or boxes.dim() != 3
        or boxes.shape[2] != 4
        or boxes.shape[:2] != labels.shape
        or len(boxes) != len(images)
    ):
        raise DataError(f"{where}: the shapes do not match", expected="[N, C, H, W], [N, M, 4], [N, M]", got=shapes)
    if not images.numel():
        raise DataError(f"{where}: there are no images, or they have no pixels", got=shapes)
    if labels.is_floating_point() or not boxes.is_floating_point():
        raise DataError(
            f"{where}: boxes are floating-point numbers and labels whole ones", got=f"{boxes.dtype}, {labels.dtype}"
        )
    if images.is_floating_point() and not bool(images.isfinite().all()):
        raise DataError(f"{where}: image {_first(~images.isfinite().flatten(1).all(1))} has values that are not finite")
    there = labels != PADDING
    if not bool(there.any()):
        raise DataError(f"{where}: no image has a box", way_out="a detector needs some to be trained and judged by")
    high, wide = images.shape[2:]
    left, top, right, bottom = boxes.unbind(2)
    problems = {
        f"its class is none of the {classes}, 0 to {classes - 1}": (labels < 0) | (labels >= classes),
        "it is not finite": ~boxes.isfinite().all(2),
        "it is empty": (right <= left) | (bottom <= top),
        f"it reaches out of the image, {wide} wide and {high} high": (boxes[..., :2] < 0).any(2)
        | (right > wide)
        | (bottom > high),
    }
    for problem, wrong in problems.items():
        wrong = wrong & there
        if bool(wrong.any()):
            i = _first(wrong.any(1))
            row = _first(wrong[i])
            raise DataError(
                f"{where}: image {i}, box {row}: {problem}",
                expected="left < right, top < bottom, in pixels",
                got=f"left, top, right, bottom = {boxes[i, row].tolist()}, class {int(labels[i, row])}",
                way_out=f"{int(wrong.sum())} of {int(there.sum())} boxes are like this; clip them, or leave them out",
            )


def _first(wrong: torch.Tensor) -> int:
    return int(wrong.nonzero()[0])
