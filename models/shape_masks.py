"""The drawn scenes of `shapes` with a class for each pixel: segmentation, with a small U-Net."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_doc import Doc

from fxopt.errors import OptionError
from fxopt.models.scene_images import mask_splits
from fxopt.models.scene_shapes import SHAPES
from fxopt.models.segmentation.data import SegmentationImages
from fxopt.models.segmentation.nets import UNet
from fxopt.models.weights import trained
from fxopt.workload import Args, Workload

WEIGHTS = Path(__file__).parent / "demo_weights" / "shape_masks.safetensors"
COMMAND = f"python -m fxopt.models.train shape_masks --out {WEIGHTS}"
CLASSES = ("ground", *SHAPES)


def shape_masks(
    size: Annotated[int, Doc("Side of the images in pixels, 32 or more, a multiple of 16.")] = 64,
    *,
    examples: Annotated[int, Doc("Training images; an eighth as many for validation and a quarter for test.")] = 5000,
) -> Workload:
    """Drawn scenes to tell apart pixel by pixel, 6 kinds of shapes and ground: 64x64 colour, trained U-Net (0.3 M parameters).

    Input float32 [N,3,size,size], output class scores float32 [N,7,size,size]; the metric is the mean intersection over union.
    The network was trained at the default size. Raises OptionError for a size below 32 or no multiple of 16, or fewer than 8
    examples; the model raises RecipeError where its weights file is missing.
    """
    if size < 32 or size % 16:
        raise OptionError(f"shape_masks: size={size} must be a multiple of 16, 32 or more")
    if examples < 8:
        raise OptionError(f"shape_masks: examples={examples} is too few; give 8 or more")
    return Workload(
        name="shape_masks",
        model=functools.partial(trained, masks_net, WEIGHTS, command=COMMAND),
        inputs=functools.partial(_inputs, size),
        data=SegmentationImages(load=functools.partial(mask_splits, size, examples), classes=CLASSES),
    )


def masks_net() -> UNet:
    """The untrained network, initialised from torch's global generator."""
    return UNet(len(CLASSES))


def _inputs(size: int) -> tuple[Args, dict[str, Any]]:
    return (torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)),), {}
