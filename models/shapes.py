"""Drawn scenes with several shapes each: detection, with a small single-shot detector."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_doc import Doc

from fxopt.errors import OptionError
from fxopt.models.detection.data import DetectionImages
from fxopt.models.detection.detect import detect
from fxopt.models.detection.loss import detection_loss, soft_detection_loss
from fxopt.models.detection.nets import Detector, DetectorNet
from fxopt.models.scene_images import box_splits
from fxopt.models.scene_shapes import SHAPES
from fxopt.models.weights import load_weights
from fxopt.workload import Args, Workload

WEIGHTS = Path(__file__).parent / "demo_weights" / "shapes.safetensors"
COMMAND = f"python -m fxopt.models.train shapes --out {WEIGHTS}"


def shapes(
    size: Annotated[int, Doc("Side of the images in pixels, 32 or more.")] = 64,
    *,
    examples: Annotated[int, Doc("Training images; an eighth as many for validation and a quarter for test.")] = 5000,
    weights: Annotated[str | Path, Doc("File of trained weights; None for those that ship, or random ones.")]
    | None = None,
) -> Workload:
    """Drawn scenes to detect 6 kinds of shapes in: 64x64 colour images, trained single-shot detector (0.2 M parameters).

    Input float32 [N,3,size,size]. The graph ends at the head, with class logits [N,6,P] and box codes [N,4,P] for P
    positions; decoding and non-maximum suppression are the tail, which the metric runs (mAP@50). The shipped weights belong
    to the default ``size``; with another, name a file of yours (``python -m fxopt.models.train shapes --size …``) in
    ``weights``, or the network is untrained, with the random weights of a fixed seed. Raises OptionError for a size below 32
    or fewer than 8 examples.
    """
    if size < 32:
        raise OptionError(f"shapes: size={size} is too small to draw in; give 32 or more")
    if examples < 8:
        raise OptionError(f"shapes: examples={examples} is too few; give 8 or more")
    if weights is None and size == 64:
        weights = WEIGHTS
    return Workload(
        name="shapes",
        model=functools.partial(_model, weights),
        inputs=functools.partial(_inputs, size),
        until="net",
        data=DetectionImages(
            load=functools.partial(box_splits, size, examples),
            classes=SHAPES,
            criterion=functools.partial(detection_loss, size=(size, size)),
            soft_criterion=functools.partial(soft_detection_loss, size=(size, size)),
            tail=detect,
        ),
    )


def shapes_net() -> DetectorNet:
    """The untrained network, initialised from torch's global generator."""
    return DetectorNet(len(SHAPES))


def _model(weights: str | Path | None) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = shapes_net()
    if weights is not None:
        load_weights(Path(weights), net, command=COMMAND)
    return Detector(net).eval()


def _inputs(size: int) -> tuple[Args, dict[str, Any]]:
    return (torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)),), {}
