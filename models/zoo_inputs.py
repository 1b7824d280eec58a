"""Example inputs for torchvision's families of models, drawn from synthetic images."""

from __future__ import annotations

from typing import Literal

import torch

from fxopt.models.synthetic import synthetic_batch
from fxopt.workload import Args

Family = Literal["classification", "segmentation", "video", "detection", "optical_flow"]

FRAMES = 16
"""Length of a clip."""

_SIZES = {"inception_v3": 299, "s3d": 224, "mvit": 224, "swin3d": 224, "swin_v2": 256}
_FAMILY_SIZES: dict[Family, int] = {
    "classification": 224, "segmentation": 224, "video": 112, "detection": 320, "optical_flow": 128,
}  # fmt: skip


def family_of(module: str) -> Family:
    """The family of a builder, from the name of the torchvision module that holds it."""
    for family in _FAMILY_SIZES:
        if f"models.{family}" in module:
            return family
    return "classification"


def native_size(name: str, family: Family) -> int:
    """Side of the images in pixels: what the architecture needs, else what is usual in its family."""
    return next((size for start, size in _SIZES.items() if name.startswith(start)), _FAMILY_SIZES[family])


def example_args(family: Family, count: int, size: int) -> Args:
    """Arguments for ``count`` examples.

    classification, segmentation: float32 [count,3,size,size], normalised. video: float32 [count,3,16,size,size].
    detection: a list of ``count`` images float32 [3,size,size] in 0 to 1. optical flow: two float32
    [count,3,size,size] in -1 to 1, the second moved by two pixels.
    """
    shape = (3, size, size)
    if family == "detection":
        return (list(synthetic_batch(count, shape, normalised=False)),)
    if family == "optical_flow":
        images = synthetic_batch(count, shape, normalised=False) * 2 - 1
        return images, images.roll((2, 2), dims=(2, 3))
    if family == "video":
        # a clip: one image that drifts by two pixels a frame
        images = synthetic_batch(count, shape)
        return (torch.stack([images.roll((2 * t, t), dims=(2, 3)) for t in range(FRAMES)], dim=2),)
    return (synthetic_batch(count, shape),)
