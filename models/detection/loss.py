"""The training loss of a head without anchors: which position is to find which box, focal loss, generalized IoU."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from fxopt.models.detection.grid import LARGEST_CODE, STRIDES, positions

_BOX_WEIGHT = 2.0
_SIDES_IN_STRIDES = 3
"""A resolution finds boxes whose longer side is less than so many of its strides, unless a finer one does."""


def detection_loss(output: Any, target: Any, *, size: tuple[int, int]) -> torch.Tensor:
    """Scalar loss of logits [N,classes,P] and codes [N,4,P] against boxes [N,M,4] and labels [N,M] of images of ``size``.

    Sigmoid focal loss over all positions and classes (Lin et al. 2017, eq. 5, with alpha 0.25 and gamma 2) and twice the
    generalized IoU loss of the positions that have a box (Rezatofighi et al. 2019, algorithm 1), both divided by the number
    of these, as in FCOS (Tian et al. 2019, eq. 2). Rows whose label is negative are padding.
    """
    (logits, codes), (boxes, labels) = output, target
    owner = assign(boxes, labels, size)
    image, place = (owner >= 0).nonzero(as_tuple=True)
    chosen = owner[image, place]
    wanted = torch.zeros_like(logits)
    wanted[image, labels[image, chosen], place] = 1
    count = max(1, len(image))
    found = decode(codes, size)[image, place]
    return (focal(logits, wanted) + _BOX_WEIGHT * (1 - generalized_iou(found, boxes[image, chosen])).sum()) / count


def soft_detection_loss(output: Any, teacher: Any, *, size: tuple[int, int]) -> torch.Tensor:
    """Scalar loss of a student's logits and codes against a teacher's, without labels.

    Quality focal loss of the classes (Li et al. 2020, eq. 5, with beta 2), and twice the generalized IoU loss of the boxes,
    each weighted by how sure the teacher is that something is there; divided by the sum of these weights. What the teacher says
    of boxes where there is nothing was never trained, and counts little.
    """
    (logits, codes), (sure, taught) = output, (teacher[0].sigmoid(), teacher[1])
    far = (logits.sigmoid() - sure).square()
    classes = (far * F.binary_cross_entropy_with_logits(logits, sure, reduction="none")).sum()
    weight = sure.amax(1)
    boxes = generalized_iou(*(decode(each, size).flatten(0, 1) for each in (codes, taught)))
    count = weight.sum().clamp(min=1)
    return (classes + _BOX_WEIGHT * (weight.flatten() * (1 - boxes)).sum()) / count


def assign(boxes: torch.Tensor, labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """For each position the row of the box that it is to find, int64 [N,P], or -1.

    A box is found by the positions within a stride of its centre, at the resolution that suits its longer side; where
    several boxes claim one, by the smallest.
    """
    if not boxes.shape[1]:
        return torch.full((len(boxes), len(positions(*size).strides)), -1)
    centres, strides = map(torch.from_numpy, positions(*size))
    sides = boxes[..., 2:] - boxes[..., :2]
    middle, longer = boxes[..., :2] + sides / 2, sides.amax(-1, keepdim=True)
    least = torch.where(strides == STRIDES[0], 0, _SIDES_IN_STRIDES * strides / 2)
    most = torch.where(strides == STRIDES[-1], float("inf"), _SIDES_IN_STRIDES * strides)
    near = ((centres - middle[:, :, None]).abs() < strides[:, None]).all(-1)
    takes = near & (least <= longer) & (longer < most) & (labels >= 0)[..., None]
    area, row = sides.prod(-1)[..., None].where(takes, float("inf")).min(1)
    return row.where(area.isfinite(), -1)


def decode(codes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Boxes [N,P,4] of codes [N,4,P], as :func:`fxopt.models.detection.grid.decode` gives them, not cut at the border."""
    centres, strides = map(torch.from_numpy, positions(*size))
    far = codes.clamp(max=LARGEST_CODE).exp().transpose(1, 2) * strides[:, None]
    return torch.cat([centres - far[..., :2], centres + far[..., 2:]], -1)


def focal(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Sum of the sigmoid focal loss against 0 and 1."""
    right = torch.where(wanted > 0, logits, -logits)
    weight = torch.where(wanted > 0, 0.25, 0.75)
    return (weight * torch.sigmoid(-right).square() * F.softplus(-right)).sum()


def generalized_iou(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """IoU minus the share of the common hull that neither box covers: [n,4], [n,4] -> [n], -1 to 1."""
    common = _area(torch.maximum(found[:, :2], wanted[:, :2]), torch.minimum(found[:, 2:], wanted[:, 2:]))
    hull = _area(torch.minimum(found[:, :2], wanted[:, :2]), torch.maximum(found[:, 2:], wanted[:, 2:]))
    union = _area(found[:, :2], found[:, 2:]) + _area(wanted[:, :2], wanted[:, 2:]) - common
    return common / union - (hull - union) / hull


def _area(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    return (high - low).clamp(min=0).prod(-1)
