"""From the outputs of a head to objects: decoded boxes, and non-maximum suppression. Numpy alone, for a device too."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.models.detection.grid import decode

LEAST_SCORE = 0.02
"""Boxes with a lower score are no candidates."""
CANDIDATES = 100
"""Most candidates of an image, those with the highest scores."""
OVERLAP = 0.5
"""Boxes of one class with a higher intersection over union are of one object."""

_Array = np.ndarray[Any, Any]


def detect(outputs: Any, images: Any) -> list[dict[str, Any]]:
    """The objects of each image, from logits [N,classes,P] and codes [N,4,P], the best first.

    For each of ``images`` [N,C,H,W], of which only the size is read, a dict as torchvision's detectors give it: ``boxes``
    float32 [n,4] as left, top, right, bottom in pixels, ``scores`` float32 [n], ``labels`` int64 [n].
    """
    logits, codes = (np.asarray(value, np.float32) for value in outputs)
    count, classes, places = logits.shape
    with np.errstate(over="ignore"):
        scores = (1 / (1 + np.exp(-logits))).reshape(count, classes * places)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
    scores = np.take_along_axis(scores, best, 1)
    boxes = np.take_along_axis(decode(codes, *images.shape[2:]), (best % places)[..., None], 1)
    labels = best // places
    left = suppress(boxes, scores, labels)
    return [{"boxes": boxes[i, k], "scores": scores[i, k], "labels": labels[i, k]} for i, k in enumerate(left)]


def suppress(boxes: _Array, scores: _Array, labels: _Array) -> _Array:
    """Which candidates [N,k], the best first, are the best of their object: greedy, class by class, all images at once."""
    same = (overlaps(boxes) > OVERLAP) & (labels[:, :, None] == labels[:, None, :])
    left = scores > LEAST_SCORE
    for i in range(boxes.shape[1] - 1):
        left[:, i + 1 :] &= ~(same[:, i, i + 1 :] & left[:, i, None])
    return left


def overlaps(boxes: _Array) -> _Array:
    """Intersection over union of all pairs, [N,k,4] to [N,k,k]; 0 for boxes without area."""
    low = np.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = np.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    union = areas[:, :, None] + areas[:, None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
