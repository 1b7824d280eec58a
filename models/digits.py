"""Handwritten digits: 1797 images that come with scikit-learn, and a residual network of 0.9 M parameters."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from fxopt.errors import DataError
from fxopt.models.images import LabelledImages, Splits
from fxopt.models.nets import CharacterNet
from fxopt.models.weights import trained
from fxopt.workload import Args, Workload

WEIGHTS = Path(__file__).parent / "demo_weights" / "digits.safetensors"
COMMAND = f"python -m fxopt.models.train digits --out {WEIGHTS}"


def digits() -> Workload:
    """Handwritten digits: 8x8 images, 10 classes, trained residual network (0.9 M parameters).

    Input float32 [N,1,8,8], output scores float32 [N,10]. 1047 training, 300 validation and 450 held-out test images.
    The data need scikit-learn (DataError without it); the model raises RecipeError where its weights file is missing.
    """
    return Workload(
        name="digits",
        model=functools.partial(trained, digit_net, WEIGHTS, command=COMMAND),
        inputs=_inputs,
        data=LabelledImages(digit_splits),
    )


def digit_net() -> CharacterNet:
    """The untrained network, initialised from torch's global generator."""
    return CharacterNet(10, widths=(48, 96, 176), depth=(1, 1, 1))


@functools.cache
def digit_splits() -> Splits:
    """The three splits, stratified by class and the same on every machine. Raises DataError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError("the digits come with scikit-learn", way_out="pip install 'fxopt[digits]'") from error
    bunch = load_digits()
    # grey levels are 0 to 16; their mean and standard deviation over the set are 4.9 and 6.0
    images = torch.tensor((bunch.images - 4.9) / 6.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    rest, test = train_test_split(range(len(labels)), test_size=450, random_state=0, stratify=labels)
    train, validation = train_test_split(rest, test_size=300, random_state=0, stratify=labels[rest])
    return {
        "train": (images[train], labels[train]),
        "validation": (images[validation], labels[validation]),
        "test": (images[test], labels[test]),
    }


def _inputs() -> tuple[Args, dict[str, Any]]:
    return (torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)),), {}
