"""The shapes of drawn scenes: their boxes, and how much of each pixel they cover."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SHAPES = ("disk", "ring", "square", "triangle", "cross", "bar")
"""Names of the classes, in the order of their ids."""

_ARM, _SIDE, _THICK = 0.33, 0.72, 0.38
"""Half width of a cross's arms, half side of a square, half height of a bar; a disk's radius is 1."""

_Array = np.ndarray[Any, Any]


def _corners(wide: float, high: float) -> list[tuple[float, float]]:
    return [(wide, high), (-wide, high), (wide, -high), (-wide, -high)]


_HULLS: dict[str, list[tuple[float, float]]] = {
    "square": _corners(_SIDE, _SIDE),
    "triangle": [(math.sin(a), -math.cos(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)],
    "cross": [*_corners(1, _ARM), *_corners(_ARM, 1)],
    "bar": _corners(1, _THICK),
}
"""Corners that bound a shape however it is turned; what is round has none."""


def bounds(kinds: _Array, radii: _Array, centres: _Array, angles: _Array) -> _Array:
    """Bounds [count,slots,4] of the turned shapes: left, top, right, bottom."""
    low, high = -np.ones((*kinds.shape, 2)), np.ones((*kinds.shape, 2))
    cosine, sine = np.cos(angles)[..., None], np.sin(angles)[..., None]
    for kind, name in enumerate(SHAPES):
        if name in _HULLS:
            x, y = np.array(_HULLS[name]).T
            turned = np.stack([cosine * x - sine * y, sine * x + cosine * y], -1)
            mine = (kinds == kind)[..., None]
            low, high = np.where(mine, turned.min(-2), low), np.where(mine, turned.max(-2), high)
    scale = radii[..., None]
    return np.concatenate([centres + low * scale, centres + high * scale], -1)


def coverage(kind: int, size: int, radii: _Array, centres: _Array, angles: _Array) -> _Array:
    """How much of each pixel shapes of one kind cover, by their distance to its middle: float32 [count,size,size]."""
    y, x = np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)
    radius, cosine, sine, right, down = (
        v.astype(np.float32)[:, None, None] for v in (radii, np.cos(angles), np.sin(angles), *centres.T)
    )
    x, y = x - right, y - down
    x, y = (cosine * x + sine * y) / radius, (cosine * y - sine * x) / radius
    name = SHAPES[kind]
    if name in ("disk", "ring"):
        from_middle = np.hypot(x, y)
        outside = from_middle - 1 if name == "disk" else np.abs(from_middle - 0.75) - 0.25
    elif name == "triangle":
        slope = np.float32(math.sqrt(3) / 2)
        outside = np.maximum(np.maximum(slope * x - y / 2, -slope * x - y / 2), y) - 0.5
    elif name == "cross":
        x, y = np.abs(x), np.abs(y)
        outside = np.minimum(np.maximum(x - 1, y - _ARM), np.maximum(x - _ARM, y - 1))
    else:
        wide, high = (_SIDE, _SIDE) if name == "square" else (1, _THICK)
        outside = np.maximum(np.abs(x) - wide, np.abs(y) - high)
    return np.clip(0.5 - outside * radius, 0, 1)
