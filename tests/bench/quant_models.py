"""The models of quant_accuracy.py by name, the same for every side; what has to be trained is trained once and kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))
import digits_vit
from cases import ill_scaled

from fxopt import Workload
from fxopt.workload import find_workload

KEPT = Path("build/quant_accuracy")
SIZE = 96
"""Side of torchvision's images in pixels, so that a row takes seconds."""

_TRAINED: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], torch.nn.Module]]] = {
    "depthwise": (ill_scaled.DepthwiseNet, ill_scaled.trained),
    "digits_vit": (digits_vit.digits_net, digits_vit.trained),
}


def model_of(name: str) -> Workload:
    """``digits``, ``glyphs``, ``ill_scaled``, ``digits_vit``, ``outlier_vit``, or one of torchvision's at 96 pixels."""
    if name in ("digits", "glyphs"):
        return find_workload(name)
    if name == "ill_scaled":
        return ill_scaled.workload_of(ill_scaled.ill_scaled(_kept("depthwise")))
    if name == "digits_vit":
        return digits_vit.workload_of(_kept("digits_vit"))
    if name == "outlier_vit":
        return digits_vit.workload_of(digits_vit.with_outliers(_kept("digits_vit")))
    return find_workload(f"torchvision:{name}(size={SIZE})")


def _kept(name: str) -> torch.nn.Module:
    """The trained network, from the file of an earlier run where there is one."""
    build, train = _TRAINED[name]
    path = KEPT / f"{name}.pt"
    if not path.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        torch.save(train().state_dict(), path)
    module = build()
    module.load_state_dict(torch.load(path))
    return module.eval()
