"""Observers: statistics of an activation that calibration collects, in constant memory however many images there are."""

from __future__ import annotations

from typing import Literal

from fxopt.passes.quant.observers.affine import FORMATS, UINT8, Affine, Format
from fxopt.passes.quant.observers.entropy import Entropy
from fxopt.passes.quant.observers.min_max import MinMax
from fxopt.passes.quant.observers.moving_average import MovingAverage
from fxopt.passes.quant.observers.observer import Observer
from fxopt.passes.quant.observers.percentile import Percentile
from fxopt.passes.quant.observers.squared_error import SquaredError

Calibration = Literal["min_max", "moving_average", "percentile", "mse", "entropy"]
"""How the range of an activation is chosen."""

OBSERVERS: dict[Calibration, type[Observer]] = {
    "min_max": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "mse": SquaredError,
    "entropy": Entropy,
}

__all__ = ["FORMATS", "OBSERVERS", "UINT8", "Affine", "Calibration", "Format", "MinMax", "Observer"]
